"""BlueST FOTA: how ST's sensor boards (STWINBX1, SensorTile.box) take firmware, through their debug console over BLE.

We say `upgradeFw`, size and CRC; the board repeats the CRC, takes chunks of 16 bytes, says 1 and starts the image for
good. Nothing but the CRC speaks for an image. As in ST's BlueSTSDK (FwUpgradeConsole).
"""

from __future__ import annotations

import asyncio
import re
import struct
import zlib
from typing import Final

from crds.errors import Retryable, Terminal
from flash_controller.protocols.base import Capabilities, Installed, Link, Progress, Slot
from flash_controller.protocols.limits import limit
from flash_controller.reasons import ProtocolReason

CHUNK: Final = 16
CHUNK_SECONDS: Final = 0.013
"""Between chunks, as ST's own clients do: the board writes flash meanwhile and has no flow control."""
ERASE_SECONDS: Final = 10.0
FLASH_SECONDS: Final = 30.0
CONSOLE_SECONDS: Final = 5.0
TAKEN: Final = b"\x01"
_VERSION: Final = re.compile(rb"([^\W_]+)_([\w-]+)_(\d+\.\d+\.\d+)")
_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class BlueST:
    """A board's debug console.

    Args:
        link: its characteristic.
    """

    def __init__(self, link: Link) -> None:
        self.capabilities = Capabilities()
        self._link = link

    async def inspect(self) -> Installed:
        """What the console's `versionFw` says: MCU, firmware and version."""
        await self._link.send(b"versionFw\n")
        said = b""
        async with limit(CONSOLE_SECONDS, "the board did not tell its version"):
            while (found := _VERSION.search(said)) is None or not said.endswith(b"\n"):
                said = (said + await self._link.receive())[-256:]
        board, application, version = (part.decode("ascii") for part in found.groups())
        running = Slot(version=version, active=True, confirmed=True)
        return Installed(slots=(running,), application=application, board=board)

    async def write(self, image: bytes, *, measurement: str, progress: Progress) -> None:  # noqa: ARG002 - tells none
        """Send the image, from its beginning; the board starts it by itself."""
        crc = struct.pack("<I", stm32_crc(image))
        await self._link.send(b"upgradeFw" + struct.pack("<I", len(image)) + crc)
        async with limit(ERASE_SECONDS, "the board did not repeat the CRC"):
            await self._expect(crc)
        for start in range(0, len(image), CHUNK):
            await self._link.send(image[start : start + CHUNK])
            progress(min(start + CHUNK, len(image)), len(image))
            await asyncio.sleep(CHUNK_SECONDS)
        async with limit(FLASH_SECONDS, "the board did not acknowledge the image"):
            await self._expect(TAKEN)

    async def test_boot(self, measurement: str) -> None:
        """Nothing: the board has started the image already."""

    async def confirm(self, measurement: str) -> None:
        """Nothing: the image is there to stay."""

    async def revert(self) -> None:
        """Refused.

        Raises:
            Terminal: always.
        """
        raise Terminal("only another update brings the former image back", reason=ProtocolReason.CANNOT_REVERT)

    async def close(self) -> None:
        """Give the link back."""
        await self._link.close()

    async def _expect(self, answer: bytes) -> None:
        said = await self._link.receive()
        if said != answer:
            raise Retryable(f"the board answers {said[:CHUNK].hex()}, expected {answer.hex()}")


def stm32_crc(data: bytes) -> int:
    """The CRC of STM32's unit in its default form, over whole words of 32 bits, little endian; the rest is left out."""
    count = len(data) // 4
    words = struct.pack(f">{count}I", *struct.unpack_from(f"<{count}I", data))
    # zlib has the same polynomial, but takes the least significant bit first and inverts the result.
    crc = zlib.crc32(words.translate(_REVERSED)) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
