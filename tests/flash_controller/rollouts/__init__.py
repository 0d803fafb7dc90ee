"""Rollouts: what is decided, and what comes of it on a real control plane."""
