"""Firmware: packaging, the catalog, rollouts, and the runner that writes it to one device."""
