"""TLS on a leased stream, ended here and not by the agent: the device knows the runner's certificate."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Final

from crds.errors import Retryable
from flash_controller.protocols.base import DialIn

RECORD: Final = 16_384
CLOSE_SECONDS: Final = 5.0


class TlsLink:
    """The plain side of a stream; we are the server.

    Args:
        link: the stream.
        context: of the server, with its certificate.
    """

    max_frame = RECORD

    def __init__(self, link: DialIn, context: ssl.SSLContext) -> None:
        self._link = link
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._turn = asyncio.Lock()

    async def handshake(self) -> None:
        """Wait for the device and shake hands.

        Raises:
            Retryable: the connection ended, or it does not speak TLS with us.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                self._incoming.write(await self._link.receive())
            except ssl.SSLError as error:
                await self._flush()
                raise Retryable(f"no TLS with the device: {error.reason or error}") from error
            else:
                return await self._flush()

    async def send(self, frame: bytes) -> None:
        """See `Link`."""
        self._tls.write(frame)
        await self._flush()

    async def receive(self) -> bytes:
        """See `Link`."""
        while True:
            try:
                if plain := self._tls.read(RECORD):
                    return plain
                raise Retryable("the device ended the connection")
            except ssl.SSLWantReadError:
                await self._flush()
                self._incoming.write(await self._link.receive())
            except ssl.SSLError as error:
                raise Retryable(f"TLS with the device broke: {error.reason or error}") from error

    async def finish(self) -> None:
        """Say close_notify, by which the first OTA version knows the image's end, and wait until the device is gone."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._flush()
        with contextlib.suppress(Retryable, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while True:
                    await self._link.receive()

    async def close(self) -> None:
        """See `Link`."""
        await self._link.close()

    async def _flush(self) -> None:
        async with self._turn:
            while frame := self._outgoing.read(self._link.max_frame):
                await self._link.send(frame)
