"""A flash runner without a device, forked by the testbed's kubelet in place of the real one."""
