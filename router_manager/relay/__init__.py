"""The relay: one process a sensor node that takes readings from the broker, spools them, and delivers them."""
