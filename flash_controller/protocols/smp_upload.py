"""An image on its way to an SMP server: several chunks in flight, and back to where one was lost.

Each answer says which offset the server wants next: "go back N" needs no more. Messages are made and read here and not
by smpclient, because there are thousands of them, and its models take longer than all else that happens to a chunk.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from hashlib import sha256
from typing import Any, Final

import cbor2
from smp.header import OP, CommandId, GroupId, Header, Version

from crds.errors import Retryable
from flash_controller.protocols.base import Progress
from flash_controller.protocols.limits import limit
from flash_controller.protocols.smp_refusals import upload_refusal
from flash_controller.protocols.smp_transport import LinkTransport

CHUNK_SECONDS: Final = 10.0
ERASE_SECONDS: Final = 90.0
"""The first chunk erases a slot: some 20 ms a page, and there are devices with thousands."""
MOST_SETBACKS: Final = 32
"""Lost chunks in a row, without one that the device took."""

_HEADER: Final = struct.Struct("!BBHHBB")
_WRITE: Final = Version.V2 << 3 | OP.WRITE
_SEQUENCES: Final = 256
_DATA_LENGTH_BYTES: Final = 2
"""By which data's head may be longer than that of no data."""


class Upload:
    """One image.

    Args:
        transport: to the server.
        image: to be written.
        in_flight: chunks that the server has room for.
    """

    def __init__(self, transport: LinkTransport, image: bytes, *, in_flight: int) -> None:
        self._transport = transport
        self._image = image
        self._in_flight = in_flight
        self._sequence = itertools.count()

    async def run(self, progress: Progress) -> None:
        """Send it, from where the server has a part of it already.

        Raises:
            Retryable: the link is gone, or the device takes nothing any more.
            Terminal: the device refuses it.
        """
        total = len(self._image)
        # Alone, because it erases; a device that holds a part of this image answers with the offset to go on from.
        taken = sent = best = await self._put(self._message(0)[0], seconds=ERASE_SECONDS)
        setbacks = 0
        flight: dict[asyncio.Task[int], int] = {}
        try:
            while taken < total:
                while sent < total and len(flight) < self._in_flight:
                    message, sent = self._message(sent)
                    flight[asyncio.create_task(self._put(message, seconds=CHUNK_SECONDS))] = sent
                await asyncio.wait(flight, return_when=asyncio.FIRST_COMPLETED)
                task = next(task for task in flight if task.done())
                taken, expected = task.result(), flight[task]
                lost = taken != expected
                # It has all up to there, whatever answers got lost; behind a lost chunk, the others came in vain.
                for each in [each for each, end in flight.items() if lost or end <= taken]:
                    each.cancel()
                    del flight[each]
                if lost:
                    sent = taken
                    setbacks += 1
                if taken > best:
                    best, setbacks = taken, 0
                    progress(taken, total)
                if setbacks > MOST_SETBACKS or not taken:
                    raise Retryable(f"the device goes back to byte {taken} of {total}")
        finally:
            for task in flight:
                task.cancel()
            await asyncio.gather(*flight, return_exceptions=True)

    def _message(self, offset: int) -> tuple[bytes, int]:
        """A chunk with as many bytes as fit, and the offset behind it; the first says what comes."""
        fields: dict[str, Any] = {"off": offset, "data": b""}
        if offset == 0:
            fields |= {"image": 0, "len": len(self._image), "sha": sha256(self._image).digest()}
        taken = Header.SIZE + len(cbor2.dumps(fields)) + _DATA_LENGTH_BYTES
        end = offset + self._transport.max_unencoded_size - taken
        body = cbor2.dumps(fields | {"data": self._image[offset:end]}, canonical=True)
        sequence = next(self._sequence) % _SEQUENCES
        ids = GroupId.IMAGE_MANAGEMENT, sequence, CommandId.ImageManagement.UPLOAD
        return _HEADER.pack(_WRITE, 0, len(body), *ids) + body, min(end, len(self._image))

    async def _put(self, message: bytes, *, seconds: float) -> int:
        """The offset that the device wants next."""
        async with limit(seconds, "no answer from the device"):
            answer = await self._transport.send_and_receive(message)
        try:
            said = cbor2.loads(answer[Header.SIZE :])
        except cbor2.CBORError:
            said = None
        match said:
            case {"off": int(offset)} if 0 <= offset <= len(self._image):
                return offset
            case _:
                raise upload_refusal(answer)
