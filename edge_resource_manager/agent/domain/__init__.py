"""Decisions of the edge agent: pure; the clock is an argument."""
