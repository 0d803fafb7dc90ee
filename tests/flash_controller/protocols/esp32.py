"""An ESP32 that takes firmware as Nubificus' does in the field, or by our second version, and what it pins."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from flash_controller.domain.images import read_image
from flash_controller.protocols.smp_framing import Fragments
from tests.flash_controller.protocols.boards import Board

READ = 64
"""Bytes that their task reads at a time."""


def _certificate(name: str, key: Any, *, until: datetime) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(datetime(2025, 6, 13, tzinfo=UTC)).not_valid_after(until)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    # Where theirs has DICE's inputs; their own agent takes none of fewer than 700 bytes.
    inputs = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.1.24"), bytes(380))
    builder = builder.add_extension(inputs, critical=False)
    return builder.sign(key, hashes.SHA256())


@cache
def pinned(folder: Path) -> Path:
    """Certificate and key of the other end, as theirs are: RSA, no SAN, expired."""
    key = rsa.generate_private_key(65537, 2048)
    certificate = _certificate("ota-agent", key, until=datetime(2026, 6, 13, tzinfo=UTC))
    path = folder / "ota-agent.pem"
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(*form) + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def own_certificate() -> bytes:
    """The device's, DER."""
    until = datetime(2049, 12, 31, tzinfo=UTC)
    return _certificate("24:6f:28:aa:bb:cc", ec.generate_private_key(ec.SECP256R1()), until=until).public_bytes(
        serialization.Encoding.DER
    )


@dataclass
class Esp32:
    """One board.

    Attributes:
        trusts: the certificate that its firmware pins.
        dials: the port that it dials; its firmware knows no other than 4433.
        shows: what it writes first, each piece in a TLS record of its own.
        board: of the second version, what is behind the server.
        drops_after: bytes of the second version's stream, after which its Wi-Fi is gone, once.
        secure: whether its firmware was built with TLS.
    """

    trusts: Path
    dials: int
    shows: tuple[bytes, ...] = ()
    board: Board | None = None
    drops_after: int | None = None
    secure: bool = True
    info: dict[str, str] = field(
        default_factory=lambda: {"device": "esp32s3", "application": "thermo", "version": "0.1.0"}
    )
    told: list[bytes] = field(default_factory=list)
    image: bytes = b""
    address: str = ""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Esp32]:
        app = web.Application()
        app.router.add_get("/info", self._tell)
        app.router.add_post("/update", self._update)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.address = "{}:{}".format(*runner.addresses[0])
        try:
            yield self
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await runner.cleanup()

    async def _tell(self, _: web.Request) -> web.Response:
        return web.json_response(self.info)

    async def _update(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.told.append(body)
        if not self.secure:
            return web.Response(text="Received update request: About to update (Insecure)\n")
        second = body.startswith(b"{")
        host = orjson.loads(body)["ip"] if second else body.removeprefix(b"ip: ").decode()
        task = asyncio.create_task(self._dial(host, second=second))
        self._tasks.add(task)
        return web.Response(text="Received update request: About to update (Secure)\n")

    async def _dial(self, host: str, *, second: bool) -> None:
        context = ssl.create_default_context(cafile=str(self.trusts))
        context.check_hostname = False
        # mbedTLS there knows no time: what is pinned is good.
        context.verify_mode = ssl.CERT_NONE
        if not second:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(
                host, self.dials, ssl=context, server_hostname="ota-agent", ssl_shutdown_timeout=1
            )
            try:
                self._pin(writer)
                await (self._second if second else self._first)(reader, writer)
            finally:
                writer.close()

    def _pin(self, writer: asyncio.StreamWriter) -> None:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if ssl.DER_cert_to_PEM_cert(shown) not in self.trusts.read_text():
            raise ConnectionError("not the certificate that is pinned")

    async def _first(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in self.shows:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        written = bytearray()
        while piece := await reader.read(READ):
            written += piece
        try:
            version = read_image(bytes(written)).version
        except ValueError:
            return
        if version:
            self.image = bytes(written)
            self.info |= {"version": version}

    async def _second(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        preamble = await reader.readexactly(5 + 32)
        if not preamble.startswith(b"FOTA\x02") or self.board is None:
            return
        evidence = b"".join(self.shows) + preamble[5:]
        writer.write(len(evidence).to_bytes(2, "big") + evidence)
        framing, taken, resets = Fragments(16_384), 0, self.board.resets
        while self.board.resets == resets:
            piece = await reader.read(4096)
            taken += len(piece)
            if not piece:
                return
            if self.drops_after is not None and taken > self.drops_after:
                self.drops_after = None
                writer.transport.abort()
                return
            for message in framing.feed(piece):
                if answer := self.board.answer(message):
                    writer.writelines(framing.encode(answer))
        await writer.drain()
