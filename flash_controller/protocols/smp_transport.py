"""smpclient's transport over a leased link: any number of requests in flight, matched by their sequence number."""

from __future__ import annotations

import asyncio
from typing import Final

from smpclient.transport import SMPTransport

from crds.errors import Retryable
from flash_controller.protocols.base import Link
from flash_controller.protocols.smp_framing import Framing

SMALLEST_BUFFER: Final = 96
"""What a server has at least, until it tells."""

SEQUENCE: Final = 6
"""Where in a message its sequence number is."""


class LinkTransport(SMPTransport):
    """SMP over a link.

    An answer that comes twice or too late meets no waiting request and is left out: `SMPClient.request` may be repeated
    with the same message, and in parallel with others.
    """

    def __init__(self, link: Link, framing: Framing) -> None:
        self._link = link
        self._framing = framing
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._turn = asyncio.Lock()
        self._reader: asyncio.Task[Retryable] | None = None

    async def connect(self, address: str, timeout_s: float) -> None:
        """Nothing to do: a leased link is connected."""

    async def disconnect(self) -> None:
        """Stop reading and give the link back."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._link.close()

    async def send(self, data: bytes) -> None:
        """One message, whole, before the next."""
        async with self._turn:
            for frame in self._framing.encode(data):
                await self._link.send(frame)

    async def receive(self) -> bytes:
        """Unused: answers go to the request that waits for them.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError

    async def send_and_receive(self, data: bytes) -> bytes:
        """Send a request and wait for its answer.

        Raises:
            Retryable: the link is gone.
        """
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        if self._reader.done():
            raise self._reader.result()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[data[SEQUENCE]] = answer
        try:
            await self.send(data)
            return await answer
        finally:
            if self._waiting.get(data[SEQUENCE]) is answer:
                del self._waiting[data[SEQUENCE]]

    @property
    def mtu(self) -> int:
        """The link's longest frame."""
        return self._link.max_frame

    @property
    def max_unencoded_size(self) -> int:
        """The longest message."""
        return self._framing.capacity(self._smp_server_transport_buffer_size or SMALLEST_BUFFER)

    async def _read(self) -> Retryable:
        """Hand answers out until the link is gone; why it is."""
        try:
            while True:
                for message in self._framing.feed(await self._link.receive()):
                    answer = self._waiting.get(message[SEQUENCE])
                    if answer is not None and not answer.done():
                        answer.set_result(message)
        except Retryable as lost:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(lost)
            return lost
