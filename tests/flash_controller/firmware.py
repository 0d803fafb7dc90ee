"""Images as the builds of real boards leave them: MCUboot's by its own imgtool, ESP-IDF's by its documented layout."""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
from pathlib import Path

ESP32S3 = 9


def mcuboot(
    folder: Path,
    body: bytes = b"\x00\x20" * 500,
    *,
    version: str = "1.2.3",
    counter: int | None = None,
    board: str | None = None,
    options: tuple[str, ...] = (),
) -> bytes:
    source, made = folder / "code.bin", folder / "image.bin"
    source.write_bytes(body)
    flags = ["--version", version, "--header-size", "0x200", "--pad-header", "--align", "4", "--slot-size", "0x100000"]
    flags += [] if counter is None else ["--security-counter", str(counter)]
    flags += [] if board is None else ["--vid", "acme.test", "--cid", board]
    command = [sys.executable, "-m", "imgtool.main", "sign", *flags, *options, str(source), str(made)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return made.read_bytes()


def esp_idf(
    *, chip: int = ESP32S3, version: str = "1.2.3", counter: int = 0, hashed: bool = True, signed: bool = False
) -> bytes:
    descriptor = struct.pack("<II8x32s32s", 0xABCD5432, counter, version.encode(), b"thermo").ljust(256, b"\0")
    segments = (descriptor + b"code" * 100, b"data" * 33)
    header = struct.pack("<BBBBIB3xHBHH4xB", 0xE9, len(segments), 2, 0x20, 0x40080000, 0xEE, chip, 0, 0, 99, hashed)
    image = header + b"".join(struct.pack("<II", 0x3C000020, len(each)) + each for each in segments)
    checksum = 0xEF
    for byte in b"".join(segments):
        checksum ^= byte
    image += bytes(15 - len(image) % 16) + bytes([checksum])
    if hashed:
        image += hashlib.sha256(image).digest()
    if signed:
        image += b"\xff" * (-len(image) % 4096) + b"\xe7\x02" + bytes(1214)
    return image
