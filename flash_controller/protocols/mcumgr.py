"""MCUmgr: Zephyr, Mynewt and NCS devices behind MCUboot, over UDP, a serial console or BLE.

Commands and their states: https://docs.zephyrproject.org/latest/services/device_mgmt/smp_groups/smp_group_1.html
What there is to do next is read from the device's slots, so that a command whose answer was lost may be given again.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Final

from pydantic import Field
from smp.header import CommandId, GroupId
from smp.image_management import ImageState
from smp.message import ReadResponse
from smp.os_management import BootloaderInformationReadRequest, MCUbootMode, OSManagementErrorV1, OSManagementErrorV2
from smpclient import SMPClient
from smpclient.generics import SMPRequest, TEr1, TEr2, TRep, error_v1, success
from smpclient.requests.image_management import ImageStatesRead, ImageStatesWrite
from smpclient.requests.os_management import MCUMgrParametersRead, ResetWrite

from crds.errors import Retryable, Terminal
from flash_controller.protocols.base import Capabilities, Installed, Link, Progress, Slot
from flash_controller.protocols.smp_framing import Framing
from flash_controller.protocols.smp_refusals import GARBLED, refusal
from flash_controller.protocols.smp_transport import LinkTransport
from flash_controller.protocols.smp_upload import Upload
from flash_controller.reasons import ProtocolReason

REQUEST_SECONDS: Final = 10.0
RESET_SECONDS: Final = 2.0
MOST_IN_FLIGHT: Final = 8
QUIET_SECONDS: Final = 3.0
"""Who has printed nothing for so long is done with booting."""
LISTEN_SECONDS: Final = 20.0
"""A device may log without an end."""

TRIES_IMAGES: Final = Capabilities(
    signed=True, resumes=True, test_boots=True, confirms=True, reverts=True, measures=True
)
OVERWRITES: Final = Capabilities(signed=True, resumes=True, measures=True)
_WITHOUT_TRIAL: Final = frozenset(
    {MCUbootMode.APPLICATION, MCUbootMode.OVERWRITE_ONLY, MCUbootMode.DIRECT_XIP_WITHOUT_REVERT}
)

# Whatever it logs as an error is raised as well.
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
        console: whether it is a UART: what comes while the device works on something else is lost, and what comes
            while it boots may stop its UART for good, or call its boot loader's recovery.
    """

    def __init__(self, link: Link, framing: Framing, *, console: bool = False) -> None:
        self.capabilities = TRIES_IMAGES
        self._transport = LinkTransport(link, framing)
        self._client = SMPClient(self._transport, "")
        self._in_flight = 0
        self._console = console

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
                await Upload(self._transport, image, in_flight=self._in_flight).run(progress)
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
        if self._console:
            await self._transport.listen(quiet=QUIET_SECONDS, at_most=LISTEN_SECONDS)
        buffers = 1
        with contextlib.suppress(Terminal):
            parameters = await self._ask(MCUMgrParametersRead())
            self._transport.initialize(parameters.buf_size)
            buffers = parameters.buf_count
        with contextlib.suppress(Terminal):
            if (await self._ask(BootModeRead(query="mode"))).mode in _WITHOUT_TRIAL:
                self.capabilities = OVERWRITES
        # One buffer is for the answer.
        self._in_flight = max(1, min(buffers - 1, MOST_IN_FLIGHT)) if not self._console else 1

    async def _reset(self) -> None:
        """Without an answer it may have come all the same: the slots will tell."""
        with contextlib.suppress(Retryable):
            await self._ask(ResetWrite(), seconds=RESET_SECONDS)

    async def _ask(self, request: SMPRequest[TRep, TEr1, TEr2], *, seconds: float | None = None) -> TRep:
        """The answer to a request.

        Raises:
            Retryable: there is none within `seconds` (10 by default), or the device is busy.
            Terminal: the device refuses.
        """
        try:
            answer = await self._client.request(request, timeout_s=seconds or REQUEST_SECONDS)
        except TimeoutError as silence:
            raise Retryable(f"no answer from the device within {seconds or REQUEST_SECONDS:g} s") from silence
        except GARBLED as garbled:
            raise Retryable(f"the device's answer is not understood: {garbled}") from garbled
        if success(answer):
            return answer
        raise refusal(type(request).__name__, answer.rc if error_v1(answer) else answer.err.rc)


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
