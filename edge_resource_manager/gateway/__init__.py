"""The REAR gateway: what other clusters see of this one. A process of its own, because it hears hostile clusters."""
