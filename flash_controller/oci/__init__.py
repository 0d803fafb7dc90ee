"""Registries (OCI distribution specification 1.1): what is asked of them, and what is kept of their answers."""
