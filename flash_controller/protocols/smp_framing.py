"""SMP messages in frames of a link, both ways: datagrams, fragments and the lines of a serial console. Pure.

A message is 8 bytes of header, big endian, and the CBOR map whose length the header tells. Zephyr's transports:
https://docs.zephyrproject.org/latest/services/device_mgmt/smp_transport.html
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from typing import Final, Protocol

from smp import packet
from smp.exceptions import SMPException
from smp.header import Header

LONGEST_LINE: Final = 4096
"""A console's line is at most 128 bytes where SMP wrote it."""

LINE_OVERHEAD: Final = packet.FRAME_LENGTH_STRUCT.size + packet.CRC16_STRUCT.size
"""What shares the server's buffer with a message that came in lines."""


class Framing(Protocol):
    """How one link carries messages."""

    def capacity(self, buffer: int) -> int:
        """The longest message that fits the link and a server's buffer of so many bytes."""

    def encode(self, message: bytes) -> Iterator[bytes]:
        """The frames of one message."""

    def feed(self, frame: bytes) -> Iterator[bytes]:
        """The messages that this frame completes; noise is left out."""


class Datagrams:
    """UDP: a message is a datagram."""

    def __init__(self, max_frame: int) -> None:
        self._max_frame = max_frame

    def capacity(self, buffer: int) -> int:
        """See `Framing`."""
        return min(self._max_frame, buffer)

    def encode(self, message: bytes) -> Iterator[bytes]:
        """See `Framing`."""
        yield message

    def feed(self, frame: bytes) -> Iterator[bytes]:
        """See `Framing`."""
        if len(frame) >= Header.SIZE and len(frame) == _length(frame):
            yield frame


class Fragments:
    """BLE and TLS: one message after the other, in pieces that the link takes."""

    def __init__(self, max_frame: int) -> None:
        self._max_frame = max_frame
        self._buffer = bytearray()

    def capacity(self, buffer: int) -> int:
        """See `Framing`."""
        return buffer

    def encode(self, message: bytes) -> Iterator[bytes]:
        """See `Framing`."""
        for start in range(0, len(message), self._max_frame):
            yield message[start : start + self._max_frame]

    def feed(self, frame: bytes) -> Iterator[bytes]:
        """See `Framing`."""
        self._buffer += frame
        while len(self._buffer) >= Header.SIZE and len(self._buffer) >= (length := _length(self._buffer)):
            yield bytes(self._buffer[:length])
            del self._buffer[:length]


class Lines:
    """A serial console: base64 in lines with a checksum, among whatever else the device prints."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._decoder: Generator[None, bytes, bytes] | None = None

    def capacity(self, buffer: int) -> int:
        """See `Framing`."""
        return buffer - LINE_OVERHEAD

    def encode(self, message: bytes) -> Iterator[bytes]:
        """See `Framing`."""
        yield b"".join(packet.encode(message))

    def feed(self, frame: bytes) -> Iterator[bytes]:
        """See `Framing`."""
        self._buffer += frame
        while (end := self._buffer.find(packet.END_DELIMITER) + 1) > 0:
            message = self._take(bytes(self._buffer[:end]))
            del self._buffer[:end]
            if message is not None:
                yield message
        if len(self._buffer) > LONGEST_LINE:
            self._buffer.clear()

    def _take(self, line: bytes) -> bytes | None:
        """The message that a line completes."""
        start = line.find(packet.START_DELIMITER)
        if start >= 0:
            line = line[start:]
            self._decoder = packet.decode()
            next(self._decoder)
        elif not line.startswith(packet.CONTINUE_DELIMITER):
            return None
        if self._decoder is None:
            return None
        try:
            self._decoder.send(line)
        except StopIteration as complete:
            self._decoder = None
            message: bytes = complete.value
            return message if len(message) >= Header.SIZE else None
        except (SMPException, ValueError, struct.error):
            self._decoder = None
        return None


def _length(message: bytes | bytearray) -> int:
    """What the header says of the whole message's length."""
    return Header.SIZE + int.from_bytes(message[2:4], "big")
