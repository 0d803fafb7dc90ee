"""Figures with their goals: one module a subject, `scripts/bench.sh <name>` runs it."""
