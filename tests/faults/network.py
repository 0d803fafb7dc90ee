"""Two network namespaces and a router between them that can stop forwarding: packets are dropped, nobody is told.

Needs root; touches no address but those of its own namespaces.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

HERE, THERE = "192.0.2.1", "198.51.100.1"
"""Of RFC 5737: nobody's. The router has the `.2` of either."""


class Network:
    """Made by `network`."""

    def __init__(self, name: str) -> None:
        self.names = tuple(f"{name}-{part}" for part in ("here", "router", "there"))

    @property
    def here(self) -> tuple[str, ...]:
        """What a command has in front to run where devices and relay are."""
        return ("ip", "netns", "exec", self.names[0])

    @property
    def there(self) -> tuple[str, ...]:
        """The same for the target."""
        return ("ip", "netns", "exec", self.names[2])

    def build(self) -> None:
        for name in self.names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _, router, _ = self.names
        for name, address in zip(self.names[::2], (HERE, THERE), strict=True):
            end = name.rpartition("-")[2]
            _ip("link", "add", "wire", "netns", name, "type", "veth", "peer", "name", end, "netns", router)
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "wire")
            _ip("-n", router, "address", "add", f"{address[:-1]}2/24", "dev", end)
            _ip("-n", name, "link", "set", "wire", "up")
            _ip("-n", router, "link", "set", end, "up")
            _ip("-n", name, "route", "add", "default", "via", f"{address[:-1]}2")
        _run("ip", "netns", "exec", router, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")

    def cut(self) -> None:
        """From now on the router drops everything."""
        for address in (HERE, THERE):
            _ip("-n", self.names[1], "route", "add", "blackhole", f"{address}/32")

    def mend(self) -> None:
        for address in (HERE, THERE):
            _ip("-n", self.names[1], "route", "delete", "blackhole", f"{address}/32")

    def remove(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=10, check=False)


@contextmanager
def network() -> Iterator[Network]:
    """One for a test.

    Raises:
        OSError: there is no `ip`.
        subprocess.CalledProcessError: this machine lets us make no namespaces.
    """
    made = Network(f"faults-{os.getpid()}")
    try:
        made.build()
        yield made
    finally:
        made.remove()


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=10)
