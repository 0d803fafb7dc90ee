"""The edge agent: one process a sensor node, between its devices, its broker and the identity issuer."""
