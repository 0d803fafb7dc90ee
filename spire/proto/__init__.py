"""Messages of the Workload API and of SPIRE, and the code that `generate` makes of them."""
