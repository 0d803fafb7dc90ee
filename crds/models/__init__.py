"""Pydantic models of every kind, ours and those of others: the source of truth of the CRDs."""
