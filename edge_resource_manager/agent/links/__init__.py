"""The node's radios and ports, leased to flash runners."""
