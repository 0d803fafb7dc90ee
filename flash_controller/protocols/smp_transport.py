"""smpclient's transport over a leased link: any number of requests in flight, each repeated until it is answered."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Final

from smp.header import CommandId, GroupId
from smpclient.transport import SMPTransport

from crds.errors import Retryable
from flash_controller.protocols.base import Link
from flash_controller.protocols.smp_framing import Framing

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 8.0
SMALLEST_BUFFER: Final = 96
"""What a server has at least, until it tells."""

MATCHES: Final = slice(4, 8)
"""What an answer has of its request's header: group, sequence number and command."""
_RESET: Final = GroupId.OS_MANAGEMENT.to_bytes(2, "big"), CommandId.OSManagement.RESET


class LinkTransport(SMPTransport):
    """SMP over a link.

    An answer that comes twice or too late meets no waiting request and is left out.
    """

    def __init__(self, link: Link, framing: Framing) -> None:
        self._link = link
        self._framing = framing
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self._turn = asyncio.Lock()
        self._reader: asyncio.Task[Retryable] | None = None
        self._heard = asyncio.Event()

    async def connect(self, address: str, timeout_s: float) -> None:
        """Nothing to do: a leased link is connected."""

    async def disconnect(self) -> None:
        """Stop reading and give the link back."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._link.close()

    async def listen(self, *, quiet: float, at_most: float) -> None:
        """Say nothing until the device has been quiet for so many seconds."""
        self._start_reading()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most):
                while await self._hears(within=quiet):
                    pass

    async def _hears(self, *, within: float) -> bool:
        self._heard.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._heard.wait()
        return self._heard.is_set()

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
        """The answer to a request, however long that takes.

        All but a reset do no harm when they come twice: a second one would end the trial that the first began.

        Raises:
            Retryable: the link is gone.
        """
        reader = self._start_reading()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[data[MATCHES]] = answer
        pause = FIRST_PAUSE_SECONDS
        once = (data[4:6], data[7]) == _RESET
        try:
            while not reader.done():
                await self.send(data)
                await asyncio.wait(
                    (answer, reader), timeout=None if once else pause, return_when=asyncio.FIRST_COMPLETED
                )
                if answer.done():
                    return answer.result()
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            raise reader.result()
        finally:
            if self._waiting.get(data[MATCHES]) is answer:
                del self._waiting[data[MATCHES]]

    @property
    def mtu(self) -> int:
        """The link's longest frame."""
        return self._link.max_frame

    @property
    def max_unencoded_size(self) -> int:
        """The longest message."""
        return self._framing.capacity(self._smp_server_transport_buffer_size or SMALLEST_BUFFER)

    def _start_reading(self) -> asyncio.Task[Retryable]:
        self._reader = self._reader or asyncio.create_task(self._read())
        return self._reader

    async def _read(self) -> Retryable:
        """Hand answers out until the link is gone; why it is."""
        try:
            while True:
                frame = await self._link.receive()
                self._heard.set()
                for message in self._framing.feed(frame):
                    answer = self._waiting.get(message[MATCHES])
                    if answer is not None and not answer.done():
                        answer.set_result(message)
        except Retryable as lost:
            return lost
