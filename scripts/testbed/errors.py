"""What can go wrong before a program of the testbed runs."""


class BinaryError(RuntimeError):
    """A program of the control plane can be neither found, nor used, nor built; the message says which and why."""
