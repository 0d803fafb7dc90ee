"""Where a buyer's endpoints really are: names are resolved here, the policy decides.

The relay looks again when it connects, because what a name means can change in between.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address

from crds.egress import Address, EgressPolicy, host_and_port
from crds.models.delivery import Endpoint

RESOLVE_SECONDS = 2.0
MAX_LOOKUPS = 32


def bound_lookups() -> None:
    """Have the C library give up on a name when nobody waits for it any more. It reads this once, at first use."""
    os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:2")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An endpoint that this provider does not deliver to."""

    endpoint: str
    url: str
    reason: str


class EgressGate:
    """Checks all endpoints of a configuration at once, a bounded number of lookups at a time."""

    def __init__(self, policy: EgressPolicy, *, resolve_seconds: float = RESOLVE_SECONDS) -> None:
        self._policy = policy
        self._seconds = resolve_seconds
        # Threads of its own: lookups that hang, which a hostile name server can arrange, hold up other lookups at most.
        self._resolvers = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="resolver")

    async def refusal(self, endpoints: Iterable[Endpoint]) -> Refusal | None:
        """The first endpoint that is refused, in the buyer's order, or None.

        Raises:
            InvalidField: a URL without a host, or with a port that is none.
        """
        targets: list[tuple[Endpoint, str, int]] = []
        for endpoint in endpoints:
            url = endpoint.location
            if endpoint.kafka is None:
                targets.append((endpoint, *host_and_port(url, field=f"endpoint {endpoint.name}")))
                reason = self._policy.plain_refusal(url)
            else:
                reason = self._policy.kafka_refusal(endpoint.kafka.bootstrap_servers)
            if reason:
                return Refusal(endpoint.name, url, reason)
        found = await asyncio.gather(*(self._resolve(host, port) for _, host, port in targets))
        for (endpoint, host, _), addresses in zip(targets, found, strict=True):
            if isinstance(addresses, str):
                return Refusal(endpoint.name, endpoint.location, f"{host} {addresses}")
            for address in addresses:
                if reason := self._policy.refusal(address):
                    return Refusal(endpoint.name, endpoint.location, reason)
        return None

    async def _resolve(self, host: str, port: int) -> tuple[Address, ...] | str:
        """All addresses of a host, or why there are none."""
        try:
            return (ip_address(host),)
        except ValueError:
            pass  # a name, or one of the short forms of IPv4 that only the resolver knows (127.1, 0x7f000001)
        try:
            async with asyncio.timeout(self._seconds):
                lookup = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
                found = await asyncio.get_running_loop().run_in_executor(self._resolvers, lookup)
        except TimeoutError:
            return f"could not be resolved within {self._seconds:g} s"
        except (OSError, UnicodeError) as error:
            return f"could not be resolved: {error.args[-1] if error.args else error}"
        return tuple(ip_address(str(sockaddr[0])) for *_, sockaddr in found) or "has no address"
