"""What identity meets outside: SPIRE's servers."""
