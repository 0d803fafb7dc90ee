"""Decisions about routes and messages: pure, no clock, no network, no randomness but as arguments."""
