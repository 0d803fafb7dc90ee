"""The edge agent put together: a watch, its node's broker and onboarding broker, the issuer."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Final

from crds.errors import Terminal
from crds.kube.client import Kind, Kube
from crds.kube.process import probes, until_stopped
from crds.kube.watch import Key, follow
from crds.models.leafdevice import LeafDevice
from edge_resource_manager.agent.adapters.dynamic_security import RESPONSE, DynamicSecurity
from edge_resource_manager.agent.adapters.issuer import HttpIssuer
from edge_resource_manager.agent.adapters.link import Link
from edge_resource_manager.agent.carrier import EVIDENCE, HELLO, Carrier
from edge_resource_manager.agent.devices import Devices
from edge_resource_manager.agent.keeper import Keeper
from edge_resource_manager.agent.links.service import LeaseServer
from edge_resource_manager.agent.settings import AgentSettings
from edge_resource_manager.agent.vouching import Vouching
from spire.domain.authorization import exactly
from spire.domain.spiffe_id import SpiffeId
from spire.identity import IdentitySource
from spire.tls import client_context

REMIND_SECONDS: Final = 15.0
LEAVES: Final = Kind.of(LeafDevice.crd)


class Agent:
    """What an agent does for its node.

    Args:
        kube: the API server.
        settings: flags.
        identity: its own.

    Raises:
        Terminal: the identity is not that of this node's agent.
    """

    def __init__(self, kube: Kube, settings: AgentSettings, identity: IdentitySource) -> None:
        own = _own_id(identity, node=settings.node)
        self._kube = kube
        self._settings = settings
        self._identity = identity
        self._synced = asyncio.Event()
        self._link_up = asyncio.Event()
        self._devices = Devices(settings.node, changed=self._device_changed)
        self._vouching = Vouching(kube, self._devices.get, by=own)
        self._security = DynamicSecurity(lambda topic, payload: self._data.send(topic, payload, qos=0))
        self._keeper = Keeper(self._security, lambda now: self._devices.plan(agent=own, now=now))
        self._data = self._link("data", settings.broker, topics=(RESPONSE, HELLO, EVIDENCE))
        self._links = [self._data]
        if settings.onboarding is not None:
            self._links.append(self._link("onboarding", settings.onboarding, topics=(HELLO, EVIDENCE)))
        issuer = own.trust_domain.spiffe_id("issuer")
        self._issuer = HttpIssuer(settings.issuer, context=client_context(identity, authorize=exactly(issuer)))
        self._carrier = Carrier(self._issuer, self._devices, account=self._keeper.has)
        self._leases = LeaseServer(settings, identity, self._devices.get)

    @property
    def ready(self) -> bool:
        """It knows its devices, is connected, and the broker has the accounts that it is to have."""
        return self._synced.is_set() and all(link.connected for link in self._links) and self._keeper.in_order

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(
                probes(host=settings.metrics_host, port=settings.metrics_port, ready=lambda: self.ready)
            )
            await stack.enter_async_context(self._issuer)
            for link in self._links:
                await stack.enter_async_context(link)
            stack.push_async_callback(self._carrier.close)
            query = {"fieldSelector": f"spec.nodeName={settings.node}"}
            await until_stopped(
                stop,
                follow(self._kube, LEAVES, changed=self._devices.seen, synced=self._synced, query=query),
                self._keep(),
                self._remind(),
                self._lease(),
                self._vouching.queue.run(),
            )

    async def _keep(self) -> None:
        # Not before the first whole list: an agent that starts knows of no device, and would cut all of them.
        await self._synced.wait()
        await self._keeper.run()

    async def _lease(self) -> None:
        # Not before the first whole list either: nobody would be known.
        await self._synced.wait()
        await self._leases.run()

    async def _remind(self) -> None:
        await self._synced.wait()
        while True:
            self._link_up.clear()
            ways = [link for link in self._links if link.connected]
            await self._carrier.remind(ways, self._devices.unproven(now=datetime.now(UTC)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REMIND_SECONDS):
                    await self._link_up.wait()

    def _device_changed(self, key: Key) -> None:
        self._keeper.changed()
        self._vouching.queue.add(key)

    def _link(self, name: str, url: str, *, topics: tuple[str, ...]) -> Link:
        broker = self._identity.current.svid.spiffe_id.trust_domain.spiffe_id("broker", self._settings.node)

        def receive(topic: str, payload: bytes) -> None:
            if topic == RESPONSE:
                self._security.receive(payload)
            else:
                self._carrier.receive(link, topic, payload)

        link = Link(
            name=name,
            url=url,
            client_id=secrets.token_hex(16),
            context=client_context(self._identity, authorize=exactly(broker)),
            topics=topics,
            receive=receive,
            on_change=functools.partial(self._turned, name),
        )
        return link

    def _turned(self, name: str, connected: bool) -> None:  # noqa: FBT001 - as Link says it
        if connected:
            self._link_up.set()
        if name == self._data.name:
            if connected:
                self._keeper.forget()
            else:
                self._security.lost()


def _own_id(identity: IdentitySource, *, node: str) -> SpiffeId:
    own = identity.current.svid.spiffe_id
    if own.path != f"/agent/{node}":
        raise Terminal(f"the identity is {own}, expected /agent/{node} of its trust domain", reason="WrongIdentity")
    return own
