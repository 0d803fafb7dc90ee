"""The OTA of Nubificus' ESP32s as it is in the field.

Told so by HTTP, the device connects to port 4433 by TLS 1.2, where it knows the certificate; it writes its own
certificate, of which nobody says the length but the certificate, takes an image until close_notify, and restarts. It
tells nothing of what came of it: `/info` after the restart does, and evidence.
"""

from __future__ import annotations

import ssl
from typing import Final

from crds.errors import Terminal
from flash_controller.protocols.base import Capabilities, DialIn, Installed, Judge, Progress, Slot
from flash_controller.protocols.limits import limit
from flash_controller.protocols.ota import DIAL_IN_SECONDS, read_evidence, read_info, request_update
from flash_controller.protocols.tls import TlsLink
from flash_controller.reasons import ProtocolReason

STALL_SECONDS: Final = 30.0
PIECE: Final = 4096
_SEQUENCE: Final = 0x30
_TWO_BYTES_OF_LENGTH: Final = 0x82
_HEAD: Final = 4


class NubificusOTA:
    """An ESP32 of theirs.

    Args:
        link: where it dials in.
        tls: a server's context, with the certificate that the firmware pins.
        judge: of the certificate that the device shows.
    """

    def __init__(self, link: DialIn, *, tls: ssl.SSLContext, judge: Judge) -> None:
        self.capabilities = Capabilities()
        self._link = link
        self._tls = tls
        self._judge = judge

    async def inspect(self) -> Installed:
        """What `/info` says; what runs is there to stay."""
        info = await read_info(self._link)
        running = Slot(version=info.version, active=True, confirmed=True)
        return Installed(slots=(running,), application=info.application, board=info.device)

    async def write(self, image: bytes, *, measurement: str, progress: Progress) -> None:  # noqa: ARG002 - tells none
        """Send the image; progress is what was sent, because the device does not tell."""
        stream = TlsLink(self._link, self._tls)
        await request_update(self._link, f"ip: {self._link.address.rpartition(':')[0]}".encode())
        async with limit(DIAL_IN_SECONDS, "the device did not dial in"):
            await stream.handshake()
        self._judge(await read_evidence(stream, certificate_length), b"")
        for start in range(0, len(image), PIECE):
            async with limit(STALL_SECONDS, "the device took no bytes"):
                await stream.send(image[start : start + PIECE])
            progress(min(start + PIECE, len(image)), len(image))
        await stream.finish()

    async def test_boot(self, measurement: str) -> None:
        """Nothing: the device has started the image already."""

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


def certificate_length(head: bytes) -> int | None:
    """The length of a DER certificate, by its first four bytes (X.690, 8.1.3.5); None while they are fewer.

    Raises:
        Terminal: it is no certificate.
    """
    if len(head) < _HEAD:
        return None
    if head[0] != _SEQUENCE or head[1] != _TWO_BYTES_OF_LENGTH:
        raise Terminal(f"no certificate begins with {head[:_HEAD].hex()}", reason=ProtocolReason.INVALID_EVIDENCE)
    return _HEAD + int.from_bytes(head[2:_HEAD], "big")
