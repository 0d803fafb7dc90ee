"""What every manager does to the API server, once: requests, watches, queues, conditions, Leases, Events, metrics."""
