"""What flash_controller speaks to, a module for each."""
