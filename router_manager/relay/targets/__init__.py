"""The ways out of the relay: one module for each kind of address that a target can have."""
