"""The relay's own MQTT listener: devices publish to it, and have its word when it is on disk."""
