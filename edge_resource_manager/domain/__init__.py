"""Decisions about devices, flavors, reservations and claims: pure; clock and randomness are arguments."""
