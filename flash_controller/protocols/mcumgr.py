"""MCUmgr: Zephyr, Mynewt and NCS devices behind MCUboot, over UDP, a serial console or BLE.

Commands and their states: https://docs.zephyrproject.org/latest/services/device_mgmt/smp_groups/smp_group_1.html
A request is repeated until it is answered, for none but a reset does harm when it comes twice; after a lost reset
the image is still pending, which `inspect` shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from hashlib import sha256
from typing import Final

from pydantic import Field
from smp.error import MGMT_ERR
from smp.header import CommandId, GroupId
from smp.image_management import IMG_MGMT_ERR, ImageState, ImageUploadWriteResponse
from smp.message import ReadResponse
from smp.os_management import BootloaderInformationReadRequest, MCUbootMode, OSManagementErrorV1, OSManagementErrorV2
from smpclient import SMPClient
from smpclient.exceptions import SMPClientException
from smpclient.generics import SMPRequest, TEr1, TEr2, TRep, error_v1, success
from smpclient.requests.image_management import ImageStatesRead, ImageStatesWrite, ImageUploadWrite
from smpclient.requests.os_management import MCUMgrParametersRead, ResetWrite

from crds.errors import Retryable, Terminal
from flash_controller.protocols.base import Capabilities, Installed, Link, Progress, Slot
from flash_controller.protocols.limits import limit
from flash_controller.protocols.smp_framing import Framing
from flash_controller.protocols.smp_transport import LinkTransport
from flash_controller.reasons import ProtocolReason

REQUEST_SECONDS: Final = 10.0
ERASE_SECONDS: Final = 90.0
"""The first chunk erases a slot: some 20 ms a page, and there are devices with thousands."""
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 8.0
RESET_SECONDS: Final = 2.0
MOST_IN_FLIGHT: Final = 8
MOST_SETBACKS: Final = 32
"""Lost chunks in a row, without one that the device took."""

TRIES_IMAGES: Final = Capabilities(
    signed=True, resumes=True, test_boots=True, confirms=True, reverts=True, measures=True
)
OVERWRITES: Final = Capabilities(signed=True, resumes=True, measures=True)
_WITHOUT_TRIAL: Final = frozenset(
    {MCUbootMode.APPLICATION, MCUbootMode.OVERWRITE_ONLY, MCUbootMode.DIRECT_XIP_WITHOUT_REVERT}
)

# By name: the numbers of the groups' codes overlap.
_MAY_PASS: Final = frozenset(
    {code.name for code in (MGMT_ERR.EUNKNOWN, MGMT_ERR.ENOMEM, MGMT_ERR.ETIMEOUT, MGMT_ERR.EBADSTATE, MGMT_ERR.EBUSY)}
    | {code.name for code in (IMG_MGMT_ERR.UNKNOWN, IMG_MGMT_ERR.NO_FREE_MEMORY, IMG_MGMT_ERR.FLASH_OPEN_FAILED)}
)

# Whatever it logs as an error is raised as well, and one request without an answer is nothing to tell.
logging.getLogger("smpclient").setLevel(logging.CRITICAL)


class BootMode(ReadResponse):
    """How MCUboot takes a new image, as Zephyr answers (`os_mgmt.c`): smp's own model expects another map."""

    _GROUP_ID = GroupId.OS_MANAGEMENT
    _COMMAND_ID = CommandId.OSManagement.BOOTLOADER_INFO

    mode: int
    no_downgrade: bool | None = Field(alias="no-downgrade", default=None)


class BootModeRead(BootloaderInformationReadRequest):
    """Asks for it."""

    _Response = BootMode
    _ErrorV1 = OSManagementErrorV1
    _ErrorV2 = OSManagementErrorV2


class MCUmgr:
    """An SMP server behind MCUboot.

    Args:
        link: how it is reached.
        framing: of messages on that link.
        pipelined: whether the device takes a request while it works on another; a UART without flow control loses it.
    """

    def __init__(self, link: Link, framing: Framing, *, pipelined: bool = True) -> None:
        self.capabilities = TRIES_IMAGES
        self._transport = LinkTransport(link, framing)
        self._client = SMPClient(self._transport, "")
        self._in_flight = 0
        self._pipelined = pipelined

    async def inspect(self) -> Installed:
        """What the device holds; its boot loader's mode decides about `capabilities`."""
        await self._greet()
        states = await self._ask(ImageStatesRead())
        return Installed(slots=tuple(_slot(state) for state in states.images))

    async def write(self, image: bytes, *, measurement: str, progress: Progress) -> None:
        """Upload to the other slot; nothing where it is there already."""
        if (await self.inspect()).find(measurement) is None:
            failure = Retryable(f"the device took {len(image)} bytes, but holds no image {measurement}")
            try:
                await self._upload(image, progress=progress)
            except Retryable as error:
                failure = error
            # Its word counts: the answer to the last chunk may be what was lost.
            if (await self.inspect()).find(measurement) is None:
                raise failure
        progress(len(image), len(image))

    async def test_boot(self, measurement: str) -> None:
        """Mark for test and reset; nothing where it runs already."""
        slot = (await self.inspect()).find(measurement)
        if slot is None:
            raise Terminal(f"the device holds no image {measurement}", reason=ProtocolReason.NOT_WRITTEN)
        if slot.active:
            return
        if not slot.pending:
            await self._ask(ImageStatesWrite(hash=bytes.fromhex(measurement), confirm=False))
        await self._reset()

    async def confirm(self, measurement: str) -> None:
        """Confirm what runs; by its hash a device that went back meanwhile would be told to boot it untried."""
        active = (await self.inspect()).active
        if active is None or active.measurement != measurement:
            seen = active.measurement if active else "no image"
            raise Terminal(f"the device runs {seen}, not {measurement}", reason=ProtocolReason.OTHER_IMAGE_RUNS)
        if not active.confirmed:
            await self._ask(ImageStatesWrite(confirm=True))

    async def revert(self) -> None:
        """Reset: what is not confirmed ends there."""
        if not (await self.inspect()).settled:
            await self._reset()

    async def close(self) -> None:
        """Give the link back."""
        await self._transport.disconnect()

    async def _greet(self) -> None:
        """Learn the server's buffers and its boot loader, once; both are optional commands."""
        if self._in_flight:
            return
        buffers = 1
        with contextlib.suppress(Terminal):
            parameters = await self._ask(MCUMgrParametersRead())
            self._transport.initialize(parameters.buf_size)
            buffers = parameters.buf_count
        with contextlib.suppress(Terminal):
            if (await self._ask(BootModeRead(query="mode"))).mode in _WITHOUT_TRIAL:
                self.capabilities = OVERWRITES
        # One buffer is for the answer.
        self._in_flight = max(1, min(buffers - 1, MOST_IN_FLIGHT)) if self._pipelined else 1

    async def _upload(self, image: bytes, *, progress: Progress) -> None:
        """Go back N: chunks in flight, and from the device's own offset again when one was lost.

        Raises:
            Retryable: the device takes nothing any more.
        """
        # Alone, because it erases; a device that holds a part of this image answers with the offset to go on from.
        taken = sent = best = await self._put(self._chunk(image, 0), seconds=ERASE_SECONDS)
        setbacks = 0
        flight: dict[asyncio.Task[int], int] = {}
        try:
            while taken < len(image):
                while sent < len(image) and len(flight) < self._in_flight:
                    chunk = self._chunk(image, sent)
                    sent += len(chunk.data)
                    flight[asyncio.create_task(self._put(chunk))] = sent
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
                    progress(taken, len(image))
                if setbacks > MOST_SETBACKS or not taken:
                    raise Retryable(f"the device goes back to byte {taken} of {len(image)} ")
        finally:
            for task in flight:
                task.cancel()
            await asyncio.gather(*flight, return_exceptions=True)

    def _chunk(self, image: bytes, offset: int) -> ImageUploadWrite:
        """As many bytes from here as a message takes."""

        def request(data: bytes) -> ImageUploadWrite:
            if offset:
                return ImageUploadWrite(off=offset, data=data)
            return ImageUploadWrite(off=0, data=data, image=0, len=len(image), sha=sha256(image).digest())

        _, size = self._client.get_max_cbor_and_data_size(request(b""))
        return request(image[offset : offset + size])

    async def _put(self, chunk: ImageUploadWrite, *, seconds: float | None = None) -> int:
        """The offset that the device wants next."""
        answer: ImageUploadWriteResponse = await self._ask(chunk, seconds=seconds)
        if answer.off is None or answer.off < 0:
            raise Retryable(f"the device answered to an upload without an offset: {answer.off}, {answer.rc}")
        return answer.off

    async def _reset(self) -> None:
        """Once: a second one would end the trial. Without an answer it may have come all the same."""
        with contextlib.suppress(Retryable):
            await self._ask(ResetWrite(), seconds=RESET_SECONDS, repeat=False)

    async def _ask(
        self, request: SMPRequest[TRep, TEr1, TEr2], *, seconds: float | None = None, repeat: bool = True
    ) -> TRep:
        """The answer to a request.

        Raises:
            Retryable: there is none within `seconds` (10 by default), or the device is busy.
            Terminal: the device refuses.
        """
        seconds = seconds or REQUEST_SECONDS
        pause = FIRST_PAUSE_SECONDS if repeat else seconds
        try:
            async with limit(seconds, "no answer from the device"):
                while True:
                    try:
                        answer = await self._client.request(request, timeout_s=pause)
                        break
                    except TimeoutError:
                        pause = min(2 * pause, LONGEST_PAUSE_SECONDS) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        except SMPClientException as garbled:
            raise Retryable(f"the device's answer is not understood: {garbled}") from garbled
        if success(answer):
            return answer
        rc = answer.rc if error_v1(answer) else answer.err.rc
        said = f"the device refuses {type(request).__name__}: {rc.name}"
        if rc.name in _MAY_PASS:
            raise Retryable(said)
        reason = ProtocolReason.NOT_SUPPORTED if rc is MGMT_ERR.ENOTSUP else ProtocolReason.DEVICE_REFUSED
        raise Terminal(said, reason=reason)


def _slot(state: ImageState) -> Slot:
    """A slot as Zephyr tells it; of the version `1.2.3.4` the last number is the build."""
    numbers = state.version.split(".")
    return Slot(
        version="+".join((".".join(numbers[:3]), *numbers[3:])),
        measurement=state.hash.hex() if state.hash else "",
        active=bool(state.active),
        pending=bool(state.pending),
        confirmed=bool(state.confirmed),
    )
