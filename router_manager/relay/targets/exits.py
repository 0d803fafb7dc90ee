"""All the ways out of one relay."""

from __future__ import annotations

from crds.egress import EgressPolicy
from router_manager.domain.batching import Answer
from router_manager.relay.targets.base import Batch, Exit
from router_manager.relay.targets.http import HttpExit
from spire.identity import IdentitySource


class Exits:
    """An Exit for every kind of address: it hands each batch to the one that knows."""

    def __init__(
        self, policy: EgressPolicy, *, identity: IdentitySource | None = None, timeout_seconds: float = 10.0
    ) -> None:
        """Prepare; nothing is dialled before there is something to send.

        Args:
            policy: where targets may be.
            identity: of the relay; None is `--insecure`.
            timeout_seconds: for one answer of a target.
        """
        http = HttpExit(policy, identity=identity, timeout_seconds=timeout_seconds)
        self._exits: dict[type, Exit] = {str: http}

    async def send(self, batch: Batch) -> Answer:
        """See Exit."""
        return await self._exits[type(batch.way.target.address)].send(batch)

    async def close(self) -> None:
        """See Exit."""
        for one in self._exits.values():
            await one.close()
