"""HTTP targets: a POST a batch, over connections that are kept, to addresses that the egress policy allows.

Who the target is was proven in the handshake of its connection (`contexts`).
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from crds.egress import EgressPolicy
from router_manager.domain.batching import Answer, Failure, Response
from router_manager.domain.encoding import CONTENT_TYPES, framed
from router_manager.domain.peers import Anybody, Peer
from router_manager.relay.contexts import Contexts
from router_manager.relay.http1.client import EgressRefusedError, HttpClient
from router_manager.relay.targets.base import Batch
from spire.identity import IdentitySource

_SHOWN_CHARACTERS = 200


class HttpExit:
    """Redirects are not followed: they would lead around what was checked."""

    def __init__(
        self, policy: EgressPolicy, *, identity: IdentitySource | None = None, timeout_seconds: float = 10.0
    ) -> None:
        """Prepare.

        Args:
            policy: where targets may be.
            identity: of the relay; None is `--insecure`.
            timeout_seconds: for a whole request.
        """
        self._policy = policy
        self._insecure = identity is None
        self._contexts = Contexts(identity)
        self._client = HttpClient(policy, timeout_seconds=timeout_seconds, user_agent="fluidos-edge-relay")

    async def send(self, batch: Batch) -> Answer:
        """See Exit."""
        target = batch.way.target
        headers = {"Content-Type": CONTENT_TYPES[target.encoding], "Idempotency-Key": batch.key}
        return await self.post(target.location, framed(batch.parts, target.encoding), headers, peer=batch.way.peer)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, peer: Peer) -> Answer:
        """One request to this peer. Never raises for what the target does or is."""
        try:
            reply = await self._client.post(url, body, headers, context=self._context(url, peer))
        except TimeoutError:
            return Failure("the target did not answer in time")
        except (OSError, ValueError) as error:
            return Failure(str(error) or type(error).__name__)
        good = 200 <= reply.status < 300
        shown = "" if good else reply.body[:_SHOWN_CHARACTERS].decode(errors="replace").strip()
        return Response(reply.status, reply.headers.get("retry-after"), shown)

    async def close(self) -> None:
        """See Exit."""
        await self._client.close()

    def _context(self, url: str, peer: Peer) -> ssl.SSLContext | None:
        """Raises OSError when nothing may be sent."""
        if isinstance(peer, Anybody) and not self._insecure:
            refusal = self._policy.plain_refusal(url)
            if refusal is not None:
                raise EgressRefusedError(refusal)
        return self._contexts.of(peer)
