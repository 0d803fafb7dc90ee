"""Connections to targets, at addresses that the egress policy allows."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_address
from typing import TypeVar

from crds.egress import EgressPolicy

P = TypeVar("P", bound=asyncio.Protocol)


class EgressRefusedError(OSError):
    """The policy does not let the relay connect there."""


async def dial(
    protocol: Callable[[], P],
    host: str,
    port: int,
    *,
    context: ssl.SSLContext | None,
    policy: EgressPolicy,
    seconds: float,
) -> P:
    """Connect to the first address of a host that is allowed and answers.

    Args:
        protocol: makes what serves the connection.
        host: a name or an address.
        port: of TCP.
        context: None is without TLS.
        policy: asked for each connection, so that a name that resolves differently now is caught as well.
        seconds: for all addresses together, without TLS.

    Raises:
        EgressRefusedError: the policy forbids every address of the host.
        OSError: no connection; also of TLS.
    """
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family, kind, number, _, address in found:
        refusal = policy.refusal(ip_address(str(address[0]).partition("%")[0]))
        if refusal is not None:
            failure = EgressRefusedError(refusal)
            continue
        connecting, name = socket.socket(family, kind, number), host if context else None
        try:
            connecting.settimeout(0)
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # An address that does not answer leaves time for the others.
            async with asyncio.timeout(seconds / len(found)):
                await loop.sock_connect(connecting, address)
            _, made = await loop.create_connection(protocol, sock=connecting, ssl=context, server_hostname=name)
        except BaseException as error:
            connecting.close()
            if not isinstance(error, OSError):
                raise
            failure = error
        else:
            return made
    raise failure or OSError(f"{host} has no address")
