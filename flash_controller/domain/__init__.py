"""What is decided about firmware: pure."""
