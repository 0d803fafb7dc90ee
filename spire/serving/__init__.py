"""HTTP for strangers: what they can hold open is bounded before and after their handshake."""
