"""Our version 2 of the dial-in OTA: the same way in, with everything that the first version lacks.

The body of `POST /update` is `{"ip": "...", "port": 4433, "protocol": 2}`. The device connects by TLS 1.2 or newer to
the certificate that it knows; we write `FOTA`, the byte 2 and a nonce of 32 bytes; the device answers with two bytes of
length, big endian, and its EAT with this nonce. From there on it is an SMP server, over the same stream: length, hash,
offsets to go on from, trial, confirmation and revert are SMP's.
"""

from __future__ import annotations

import json
import secrets
import ssl
from typing import Final

from flash_controller.protocols.base import DialIn, Installed, Judge
from flash_controller.protocols.limits import limit
from flash_controller.protocols.mcumgr import MCUmgr
from flash_controller.protocols.ota import DIAL_IN_SECONDS, read_evidence, read_info, request_update
from flash_controller.protocols.smp_framing import Fragments
from flash_controller.protocols.tls import TlsLink

PREAMBLE: Final = b"FOTA\x02"
NONCE_BYTES: Final = 32
LENGTH_BYTES: Final = 2


class FluidosOTA(MCUmgr):
    """A device of version 2.

    Args:
        link: where it dials in, at the first command.
        tls: a server's context, with the certificate that the firmware pins.
        judge: of the evidence that the device shows.
    """

    def __init__(self, link: DialIn, *, tls: ssl.SSLContext, judge: Judge) -> None:
        self._dial_in = link
        self._stream = TlsLink(link, tls)
        self._judge = judge
        super().__init__(self._stream, Fragments(self._stream.max_frame))

    async def inspect(self) -> Installed:
        """What the device holds, and what `/info` says of it."""
        held = await super().inspect()
        info = await read_info(self._dial_in)
        return Installed(slots=held.slots, application=info.application, board=info.device)

    async def _greet(self) -> None:
        """Have the device dial in and show who it is."""
        if self._in_flight:
            return
        host, _, port = self._dial_in.address.rpartition(":")
        await request_update(self._dial_in, json.dumps({"ip": host, "port": int(port), "protocol": 2}).encode())
        async with limit(DIAL_IN_SECONDS, "the device did not dial in"):
            await self._stream.handshake()
        nonce = secrets.token_bytes(NONCE_BYTES)
        await self._stream.send(PREAMBLE + nonce)
        self._judge((await read_evidence(self._stream, evidence_length))[LENGTH_BYTES:], nonce)
        await super()._greet()


def evidence_length(head: bytes) -> int | None:
    """The length of evidence with its prefix; None while that is not whole."""
    return None if len(head) < LENGTH_BYTES else LENGTH_BYTES + int.from_bytes(head[:LENGTH_BYTES], "big")
