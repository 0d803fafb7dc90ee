"""What runs from the source tree and is not installed: set-up, testbed, demo, bench, the leaf-device simulator."""
