"""Connections to all providers, and who is at the other end of each.

With an identity they are mutual TLS between managers of federated clusters; a connection that is for one seller alone
is never used for another, so what is meant for it cannot reach anybody else.
"""

from __future__ import annotations

import os
import ssl
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self

import aiohttp
from aiohttp.connector import Connection

from edge_resource_manager.domain import signature
from spire.domain.authorization import exactly, under
from spire.domain.spiffe_id import SpiffeId
from spire.identity import IdentitySource
from spire.tls import client_context, peer_of

GATEWAY = "/manager/rear-gateway"
MAX_SELLERS = 256


class RearSession:
    """For one buyer.

    Args:
        identity: the buyer's; None speaks plain HTTP, and nobody proves anything.
    """

    def __init__(self, identity: IdentitySource | None = None) -> None:
        self._identity = identity
        self._contexts: OrderedDict[SpiffeId | None, ssl.SSLContext] = OrderedDict()
        self.http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=256, limit_per_host=16, ttl_dns_cache=10),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            # A few kilobytes must not unfold to gigabytes: who compresses in spite of `identity` is not understood.
            auto_decompress=False,
            response_class=_Response,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections."""
        await self.http.close()

    @property
    def is_secure(self) -> bool:
        """Whether everybody proves who they are."""
        return self._identity is not None

    def tls(self, seller: SpiffeId | None) -> ssl.SSLContext | bool:
        """How to connect to one seller, or, without a name, to any gateway of a cluster that is known."""
        if self._identity is None:
            return True
        # One context a seller: aiohttp takes a connection for a request only where it was made with the same one.
        context = self._contexts.pop(seller, None)
        if context is None:
            context = client_context(self._identity, authorize=exactly(seller) if seller else under(GATEWAY))
        self._contexts[seller] = context
        if len(self._contexts) > MAX_SELLERS:
            self._contexts.popitem(last=False)
        return context

    def signer(self, mark: str, contract: Mapping[str, Any]) -> SpiffeId | None:
        """Who signed a contract; None where nobody proves anything.

        Raises:
            Untrusted: nobody who is known.
        """
        if self._identity is None:
            return None
        bundles = self._identity.current.bundles
        return signature.verify(mark, contract, bundles=bundles, now=datetime.now(UTC))

    def told(self, error: Exception) -> str:
        """The same words for the same trouble: they end up in conditions, which must not change with every try."""
        match error:
            case aiohttp.ClientConnectorDNSError():
                return "its name is not known"
            case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as refused):
                why = getattr(refused, "verify_message", "") or refused.strerror
                return f"it does not prove to be a provider that we know: {why}"
            case aiohttp.ClientConnectorSSLError():
                return "it does not speak TLS (is it run with --insecure?)"
            case aiohttp.ClientConnectorError(os_error=cause):
                return f"cannot connect: {os.strerror(cause.errno) if cause.errno else type(cause).__name__}"
            case aiohttp.ServerDisconnectedError():
                # What a TLS server does with a client that it does not know, or that speaks plain HTTP.
                guess = "does it know our trust domain?" if self.is_secure else "does it ask for TLS?"
                return f"closed the connection ({guess})"
            case _:
                return f"no HTTP answer: {type(error).__name__}"


def peer_of_response(response: aiohttp.ClientResponse) -> SpiffeId | None:
    """Who answered."""
    return response.peer if isinstance(response, _Response) else None


class _Response(aiohttp.ClientResponse):
    """Remembers the peer: the connection is given back as soon as an answer is complete."""

    peer: SpiffeId | None = None

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        self.peer = peer_of(connection.transport)
        return await super().start(connection)
