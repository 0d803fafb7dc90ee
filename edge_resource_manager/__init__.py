"""Sensors of this cluster as flavors, and claims on sensors of other clusters."""
