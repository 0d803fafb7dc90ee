"""Devices that dial in: they are told so over HTTP, and come to one port of the node, each from its own address."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import aiohttp
import structlog

from crds.errors import Terminal
from crds.models.links import MAX_BODY, MAX_FRAME, HttpAnswer, HttpRequest
from edge_resource_manager.agent.links.base import DeviceGone
from edge_resource_manager.agent.links.streams import Stream

log = structlog.get_logger(__name__)

HTTP_SECONDS = 10.0


class DialIn:
    """A device that is waited for; from its first connection on, that is the stream.

    Attributes:
        max_frame: of a piece of the stream.
        address: where the device has to dial, as host:port.
    """

    max_frame = MAX_FRAME

    def __init__(self, port: Port, *, peer: str, address: str, url: str) -> None:
        """Use `Port.open`."""
        self.address = address
        self._port = port
        self._peer = peer
        self._url = url
        self._came: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HTTP_SECONDS), auto_decompress=False)

    async def send(self, frame: bytes) -> None:
        """See `Way`; waits for the device."""
        await (await asyncio.shield(self._came)).send(frame)

    async def receive(self) -> bytes:
        """See `Way`; waits for the device."""
        return await (await asyncio.shield(self._came)).receive()

    async def request(self, request: HttpRequest) -> HttpAnswer:
        """One exchange with the device's HTTP server; status 0 where that does not answer."""
        try:
            async with self._http.request(
                request.method, self._url + request.path, data=request.body, allow_redirects=False
            ) as response:
                body = await response.content.read(MAX_BODY + 1)
        except (aiohttp.ClientError, OSError) as error:
            return HttpAnswer(status=0, body=f"{self._url}: {error or type(error).__name__}".encode())
        if len(body) > MAX_BODY:
            return HttpAnswer(status=0, body=f"{self._url}: more than {MAX_BODY} bytes".encode())
        return HttpAnswer(status=response.status, body=body)

    def take(self, stream: Stream) -> bool:
        """The device is there; False where it was before."""
        if self._came.done():
            return False
        self._came.set_result(stream)
        return True

    async def close(self) -> None:
        """See `Way`."""
        self._port.forget(self._peer)
        await self._http.close()
        if self._came.done():
            await self._came.result().close()
        else:
            self._came.cancel()


class Port:
    """Where devices dial in.

    Args:
        number: of TCP, for the whole node.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._expected: dict[str, DialIn] = {}

    async def open(self, host: str, port: int) -> DialIn:
        """Wait for a device.

        Args:
            host: the device.
            port: of its HTTP server.

        Raises:
            DeviceGone: the host is unknown, out of reach, or another device at its address is waited for.
        """
        try:
            peer, own = await _route(host, port)
        except OSError as error:
            raise DeviceGone(f"{host}:{port}: {error.strerror or error}") from error
        if peer in self._expected:
            raise DeviceGone(f"another device at {peer} is waited for")
        expected = DialIn(self, peer=peer, address=f"{own}:{self._number}", url=f"http://{host}:{port}")
        self._expected[peer] = expected
        return expected

    def forget(self, peer: str) -> None:
        """Wait no more."""
        self._expected.pop(peer, None)

    @contextlib.asynccontextmanager
    async def listening(self, host: str) -> AsyncIterator[None]:
        """Accept devices on an address of the node until the context ends.

        Raises:
            Terminal: the port is taken.
        """
        try:
            server = await asyncio.start_server(self._accept, host, self._number)
        except OSError as error:
            raise Terminal(f"--inbound-port {self._number}: {error.strerror or error}", reason="NoPort") from error
        async with server:
            self._number = server.sockets[0].getsockname()[1]
            log.info("devices dial in", port=self._number)
            yield

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")[0]
        expected = self._expected.get(peer)
        if expected is None or not expected.take(Stream(reader, writer)):
            log.info("nobody waits for this device", address=peer)
            writer.transport.abort()


async def _route(host: str, port: int) -> tuple[str, str]:
    """Addresses of the device and of the node on the way to it; nothing is sent. IPv4: devices know no other here."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_DGRAM)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(found[0][4])
        return str(found[0][4][0]), str(probe.getsockname()[0])
