"""HTTP targets: a POST a batch, over connections that are kept, to addresses that the egress policy allows.

Who the target is was proven in the handshake of its connection (`contexts`).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from ipaddress import ip_address

import aiohttp

from crds.egress import EgressPolicy
from router_manager.domain.batching import Answer, Failure, Response
from router_manager.domain.encoding import CONTENT_TYPES, framed
from router_manager.domain.peers import Anybody, Peer
from router_manager.relay.contexts import Contexts
from router_manager.relay.targets.base import Batch
from spire.identity import IdentitySource

_MAX_BODY_BYTES = 64 << 10
_SHOWN_CHARACTERS = 200


class EgressRefusedError(OSError):
    """The policy does not let the relay connect there."""


class HttpExit:
    """HTTP/1.1 by aiohttp. Redirects are not followed: they would lead around what was checked."""

    def __init__(
        self, policy: EgressPolicy, *, identity: IdentitySource | None = None, timeout_seconds: float = 10.0
    ) -> None:
        """Prepare.

        Args:
            policy: where targets may be.
            identity: of the relay; None is `--insecure`.
            timeout_seconds: for a whole request.
        """

        def checked_socket(info: aiohttp.AddrInfoType) -> socket.socket:
            # Called for each address at connect time, so a name that resolves differently now is caught as well.
            family, kind, protocol, _, address = info
            refusal = policy.refusal(ip_address(str(address[0]).partition("%")[0]))
            if refusal is not None:
                raise EgressRefusedError(refusal)
            return socket.socket(family=family, type=kind, proto=protocol)

        self._policy = policy
        self._insecure = identity is None
        self._contexts = Contexts(identity)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, socket_factory=checked_socket, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds, connect=timeout_seconds / 2),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding",),
            headers={"User-Agent": "fluidos-edge-relay"},
        )

    async def send(self, batch: Batch) -> Answer:
        """See Exit."""
        target = batch.way.target
        headers = {"Content-Type": CONTENT_TYPES[target.encoding], "Idempotency-Key": batch.key}
        return await self.post(target.location, framed(batch.parts, target.encoding), headers, peer=batch.way.peer)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, peer: Peer) -> Answer:
        """One request to this peer. Never raises for what the target does or is."""
        try:
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False, ssl=self._context(url, peer)
            ) as response:
                text = await _read(response.content)
                good = 200 <= response.status < 300
                return Response(
                    response.status,
                    response.headers.get("Retry-After"),
                    "" if good else text[:_SHOWN_CHARACTERS].decode(errors="replace").strip(),
                )
        except TimeoutError:
            return Failure("the target did not answer in time")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Failure(_reason(error))

    async def close(self) -> None:
        """See Exit."""
        await self._session.close()

    def _context(self, url: str, peer: Peer) -> ssl.SSLContext | bool:
        """Raises OSError when nothing may be sent."""
        if isinstance(peer, Anybody) and not self._insecure:
            refusal = self._policy.plain_refusal(url)
            if refusal is not None:
                raise EgressRefusedError(refusal)
        return self._contexts.of(peer)


async def _read(content: aiohttp.StreamReader) -> bytes:
    """The body to its end, so that the connection can be used again; a talkative target loses its connection."""
    text = b""
    while len(text) < _MAX_BODY_BYTES and not content.at_eof():
        text += await content.read(_MAX_BODY_BYTES)
    return text


def _reason(error: Exception) -> str:
    cause: BaseException = error
    while isinstance(cause, aiohttp.ClientConnectorError):
        cause = (
            cause.certificate_error if isinstance(cause, aiohttp.ClientConnectorCertificateError) else cause.os_error
        )
    return str(cause) or type(cause).__name__
