"""From Contracts and DataRoutes to delivered readings: the manager of routes, and the relay that serves them."""
