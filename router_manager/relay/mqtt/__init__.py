"""MQTT 3.1.1 and 5 as a subscriber needs it: a codec without I/O, and the client session on top of it."""
