"""The agent's side of links put together: one HTTPS server for runners, one port for devices that dial in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from crds.kube.watch import Key
from crds.models.leafdevice import LeafDevice
from edge_resource_manager.agent.links import metrics
from edge_resource_manager.agent.links.inbound import Port
from edge_resource_manager.agent.links.opening import Opener
from edge_resource_manager.agent.links.server import Leases
from edge_resource_manager.agent.settings import AgentSettings
from spire.domain.authorization import exactly
from spire.identity import IdentitySource
from spire.serving.guard import Guard
from spire.serving.server import serving
from spire.tls import server_context


class LeaseServer:
    """Serves where the settings say so; only to the flash runner of the own node.

    Args:
        settings: flags.
        identity: the agent's own.
        leaf: what is known of a LeafDevice.

    Raises:
        InvalidField: `--links` is no address.
    """

    def __init__(
        self, settings: AgentSettings, identity: IdentitySource, leaf: Callable[[Key], LeafDevice | None]
    ) -> None:
        self._address = settings.links_address
        self._inbound = None if settings.inbound_port is None else Port(settings.inbound_port)
        self._guard = Guard(cuts=metrics.CUTS, max_connections=512)
        self._leases = Leases(leaf, Opener(self._inbound), guard=self._guard)
        runner = identity.current.svid.spiffe_id.trust_domain.spiffe_id("runner", settings.node)
        self._tls = server_context(identity, authorize=exactly(runner))

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            Terminal: an address cannot be listened on.
        """
        async with AsyncExitStack() as stack:
            if self._address is not None:
                if self._inbound is not None:
                    await stack.enter_async_context(self._inbound.listening(self._address[0]))
                await stack.enter_async_context(
                    serving(
                        self._leases.app(),
                        self._address,
                        tls=self._tls,
                        guard=self._guard,
                        refused=metrics.HANDSHAKES_REFUSED,
                    )
                )
            await asyncio.Event().wait()
