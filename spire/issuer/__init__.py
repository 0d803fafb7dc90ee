"""The identity issuer: one process a cluster, which says who is who in its trust domain."""
