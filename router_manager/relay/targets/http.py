"""HTTP targets: a POST a batch, over connections that are kept, to addresses that the egress policy allows.

Who the target is was proven in the handshake of its connection (`contexts`).
"""

from __future__ import annotations

from collections.abc import Mapping

from crds.egress import EgressPolicy
from router_manager.domain.batching import Answer, Failure, Response
from router_manager.domain.encoding import CONTENT_TYPES
from router_manager.domain.peers import Peer
from router_manager.relay.contexts import Contexts
from router_manager.relay.http1.client import HttpClient
from router_manager.relay.targets.base import Batch
from router_manager.relay.targets.bodies import CONTENT_ENCODINGS, Bodies
from router_manager.relay.targets.credentials import CredentialError, Credentials

_SHOWN_CHARACTERS = 512


class Poster:
    """One request and what is answered. Redirects are not followed: they would lead around what was checked."""

    def __init__(self, policy: EgressPolicy, contexts: Contexts, *, timeout_seconds: float) -> None:
        """Prepare.

        Args:
            policy: where targets may be.
            contexts: who they have to be.
            timeout_seconds: for a whole request.
        """
        self._contexts = contexts
        self._client = HttpClient(policy, timeout_seconds=timeout_seconds, user_agent="fluidos-edge-relay")

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, peer: Peer) -> Response | Failure:
        """One request to this peer. Never raises for what the target does or is."""
        try:
            reply = await self._client.post(url, body, headers, context=self._contexts.of(peer, url))
        except TimeoutError:
            return Failure("the target did not answer in time")
        except (OSError, ValueError) as error:
            return Failure(str(error) or type(error).__name__)
        good = 200 <= reply.status < 300
        shown = "" if good else _shown(reply.body, headers.get("Authorization", ""))
        return Response(reply.status, reply.headers.get("retry-after"), shown)

    async def close(self) -> None:
        """Give connections back."""
        await self._client.close()


def _shown(body: bytes, authorization: str) -> str:
    """The beginning of an error, for people who may know the route's status, and not the credential in an echo."""
    text = body.decode(errors="replace")
    secret = authorization.partition(" ")[2]
    return (text.replace(secret, "***") if secret else text)[:_SHOWN_CHARACTERS].strip()


class HttpExit:
    """See Exit."""

    def __init__(self, poster: Poster, bodies: Bodies, credentials: Credentials) -> None:
        """Send by this poster, which who made it closes."""
        self._poster = poster
        self._bodies = bodies
        self._credentials = credentials

    async def send(self, batch: Batch) -> Answer:
        """See Exit."""
        target = batch.way.target
        headers = {"Content-Type": CONTENT_TYPES[target.encoding], "Idempotency-Key": batch.key}
        try:
            credential = self._credentials.of(batch.way)
        except CredentialError as error:
            return Failure(str(error))
        if credential is not None:
            headers["Authorization"] = credential.authorization
        if target.compression != "None":
            headers["Content-Encoding"] = CONTENT_ENCODINGS[target.compression]
        body = await self._bodies.make(batch.parts, encoding=target.encoding, compression=target.compression)
        return await self._poster.post(batch.way.location, body, headers, peer=batch.way.peer)

    async def close(self) -> None:
        """See Exit."""
        await self._poster.close()
