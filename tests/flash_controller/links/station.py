"""An edge agent's links without its other duties, and devices of several kinds behind it."""

from __future__ import annotations

import asyncio
import os
import pty
import socket
import tty
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from crds.errors import EdgeError
from crds.models.leafdevice import LeafDevice, Update
from edge_resource_manager.agent.links import metrics
from edge_resource_manager.agent.links.inbound import Port
from edge_resource_manager.agent.links.opening import Opener
from edge_resource_manager.agent.links.server import Leases
from flash_controller.adapters.agent_link import EdgeAgent
from spire.domain.authorization import exactly
from spire.identity import FixedIdentity, Identity
from spire.serving.guard import Guard
from spire.serving.server import serving
from spire.tls import client_context, server_context
from tests.edge_resource_manager.agent.leaves import leaf
from tests.spire.pki import Ca, bundles_of

NAMESPACE = "site"
LIMIT_SECONDS = 20.0


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Station:
    """One node. `leaves` are its devices by name; runners are of node edge-1 unless they say otherwise."""

    ca: Ca = field(default_factory=lambda: Ca.of("provider.test"))
    leaves: dict[str, LeafDevice] = field(default_factory=dict)
    inbound: Port | None = None
    bluetooth: Any = None
    lease_seconds: float = 60.0
    namespace: str = NAMESPACE
    url: str = ""

    def identity(self, path: str) -> FixedIdentity:
        return FixedIdentity(Identity(svid=self.ca.svid(path), bundles=bundles_of(self.ca)))

    def device(self, name: str, **update: Any) -> str:
        """A LeafDevice with this way for firmware."""
        found = leaf(name)
        spec = found.spec.model_copy(update={"update": Update(**update) if update else None})
        self.leaves[name] = found.model_copy(update={"spec": spec})
        return name

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Self]:
        port = free_port()
        self.url = f"https://127.0.0.1:{port}"
        guard = Guard(cuts=metrics.CUTS)
        leases = Leases(
            lambda key: self.leaves.get(key[1]) if key[0] == self.namespace else None,
            Opener(self.inbound, bluetooth=self.bluetooth),
            guard=guard,
            seconds=self.lease_seconds,
        )
        runner = self.ca.trust_domain.spiffe_id("runner", "edge-1")
        tls = server_context(self.identity("/agent/edge-1"), authorize=exactly(runner))
        async with AsyncExitStack() as stack:
            if self.inbound is not None:
                await stack.enter_async_context(self.inbound.listening("127.0.0.1"))
            await stack.enter_async_context(
                serving(leases.app(), ("127.0.0.1", port), tls=tls, guard=guard, refused=metrics.HANDSHAKES_REFUSED)
            )
            yield self

    def runner(self, path: str = "/runner/edge-1") -> EdgeAgent:
        agent = self.ca.trust_domain.spiffe_id("agent", "edge-1")
        return EdgeAgent(self.url, context=client_context(self.identity(path), authorize=exactly(agent)))


class UdpEcho(asyncio.DatagramProtocol):
    """A device that answers each datagram with itself, reversed."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, peer: Any) -> None:
        self.transport.sendto(data[::-1], peer)


@asynccontextmanager
async def udp_echo(port: int = 0) -> AsyncIterator[UdpEcho]:
    transport, echo = await asyncio.get_running_loop().create_datagram_endpoint(UdpEcho, ("127.0.0.1", port))
    try:
        yield echo
    finally:
        transport.close()


@asynccontextmanager
async def tcp_device(answer: bytes = b"hello ") -> AsyncIterator[tuple[int, list[bytes]]]:
    """A device behind a serial port that is served over TCP: greets, and keeps what it is told."""
    told: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        told.append(await reader.read())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], told


@asynccontextmanager
async def serial_port() -> AsyncIterator[tuple[str, int]]:
    """A port of the node, and the descriptor of the device at its other end."""
    device, port = pty.openpty()
    tty.setraw(port)
    try:
        yield os.ttyname(port), device
    finally:
        os.close(device)
        os.close(port)


async def refusal(station: Station, device: str, *, runner: str = "/runner/edge-1") -> EdgeError:
    """How a lease is refused."""
    async with station.runner(runner) as agent:
        try:
            await agent.lease(NAMESPACE, device)
        except EdgeError as error:
            return error
    raise AssertionError("the lease was given")
