"""Packages of firmware: built for each board, composed into one index, pushed and signed."""
