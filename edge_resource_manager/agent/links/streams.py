"""Streams of bytes: a serial port of the node, or one that is served over TCP."""

from __future__ import annotations

import asyncio
import os
import re
from urllib.parse import urlsplit

import serial

from crds.errors import Terminal
from crds.models.links import MAX_FRAME
from edge_resource_manager.agent.links.base import CLOSE_SECONDS, OPEN_SECONDS, SEND_SECONDS, DeviceGone

DEFAULT_BAUD = 115200
_PORTS = re.compile("/dev/(tty[A-Za-z]+[0-9]+|rfcomm[0-9]+|pts/[0-9]+)")
"""Names that the kernel gives serial ports; others it does not only open: `/dev/watchdog` restarts the node."""


class Stream:
    """A connection to the device; frames are pieces of a stream.

    Attributes:
        max_frame: of a piece.
    """

    max_frame = MAX_FRAME

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, frame: bytes) -> None:
        """See `Way`."""
        try:
            self._writer.write(frame)
            async with asyncio.timeout(SEND_SECONDS):
                await self._writer.drain()
        except OSError as error:
            raise DeviceGone(f"the device takes no bytes: {error}") from error

    async def receive(self) -> bytes:
        """See `Way`."""
        try:
            piece = await self._reader.read(MAX_FRAME)
        except OSError as error:
            raise DeviceGone(f"the device ended the stream: {error}") from error
        if not piece:
            raise DeviceGone("the device ended the stream")
        return piece

    async def close(self) -> None:
        """See `Way`."""
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._writer.wait_closed()
        except OSError:
            self._writer.transport.abort()


async def open_serial(address: str, *, baud: int | None) -> Stream:
    """A serial port.

    Args:
        address: its path, or `socket://host:port` where it is served over TCP.
        baud: bits a second.

    Raises:
        DeviceGone: it cannot be opened now.
        Terminal: the path leads to something else than a serial port.
    """
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            if address.startswith("socket:"):
                parts = urlsplit(address)
                return Stream(*await asyncio.open_connection(parts.hostname, parts.port))
            return await _open_port(_port(address), baud=baud or DEFAULT_BAUD)
    except (OSError, ValueError) as error:  # ValueError: a speed that the port does not have
        raise DeviceGone(f"{address}: {error}") from error


def _port(path: str) -> str:
    """Where a path leads; ports that are plugged in have several names."""
    port = os.path.realpath(path)
    if os.path.exists(port) and not _PORTS.fullmatch(port):
        raise Terminal(f"{path} is no serial port", reason="NoSerialPort")
    return port


async def _open_port(path: str, *, baud: int) -> Stream:
    loop = asyncio.get_running_loop()
    # Nobody else may open it meanwhile; two descriptors of ours, because each side of a stream closes its own.
    with serial.Serial(path, baud, exclusive=True) as port:
        sides = [os.fdopen(os.dup(port.fileno()), mode, buffering=0) for mode in ("rb", "wb")]
    reader = asyncio.StreamReader()
    reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sides[0])
    writing, protocol = await loop.connect_write_pipe(lambda: _WritingSide(reading), sides[1])
    return Stream(reader, asyncio.StreamWriter(writing, protocol, None, loop))


class _WritingSide(asyncio.streams.FlowControlMixin):
    """Closes the other side, too."""

    def __init__(self, reading: asyncio.ReadTransport) -> None:
        super().__init__()
        self._reading = reading
        self._closed = asyncio.get_running_loop().create_future()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._reading.close()
        self._closed.set_result(None)

    def _get_close_waiter(self, _: object) -> asyncio.Future[None]:
        return self._closed
