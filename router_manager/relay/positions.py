"""How far each lane has come, one small file a lane.

A file has two slots of fixed length that are written in turn, each with a checksum: whatever interrupts a write, the
other slot is whole. That costs one write a batch where a new file and a rename would cost six system calls.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, unquote
from zlib import crc32

import structlog

from router_manager.domain.table import LaneKey

log = structlog.get_logger(__name__)

_SUFFIX = ".position"
_DIGITS = 20
_SLOT_BYTES = _DIGITS + 1 + 8 + 1


class PositionFile:
    """The id of the first record that a lane still owes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = 0

    def read(self) -> int | None:
        """The newest whole slot; None where there is no file, 0 (all that the spool has) where it is damaged."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.error(
                "position cannot be read, starting with the oldest record", file=str(self._path), error=str(error)
            )
            return 0
        slots = [_read_slot(data[start : start + _SLOT_BYTES]) for start in (0, _SLOT_BYTES)]
        if slots[0] is None and slots[1] is None:
            log.error("position is damaged, starting with the oldest record", file=self._path.name)
            return 0
        self._turn = 1 if (slots[0] or 0) > (slots[1] or 0) else 0
        return max(slots[0] or 0, slots[1] or 0)

    def write(self, position: int) -> None:
        """Survives the process; what a power cut takes back is delivered again under the same batch id.

        Raises:
            OSError: the disk does not take it.
        """
        text = f"{position:0{_DIGITS}d}"
        slot = f"{text} {crc32(text.encode()):08x}\n".encode()
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(file, slot, self._turn * _SLOT_BYTES)
        finally:
            os.close(file)
        self._turn ^= 1

    def delete(self) -> None:
        """The lane is gone for good."""
        self._path.unlink(missing_ok=True)


class Positions:
    """The folder of all lanes' files."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    def file(self, key: LaneKey) -> PositionFile:
        """The file of a lane, there or not."""
        return PositionFile(self._directory / f"{lane_file_name(key)}{_SUFFIX}")

    def keys(self) -> set[LaneKey]:
        """All lanes that have a file."""
        found = set()
        for path in self._directory.glob(f"*{_SUFFIX}"):
            route_uid, _, target = path.name.removesuffix(_SUFFIX).partition(",")
            found.add(LaneKey(unquote(route_uid), unquote(target)))
        return found


def lane_file_name(key: LaneKey) -> str:
    """Route and target as part of a file name; a comma parts them, since quoting leaves none."""
    return f"{quote(key.route_uid, safe='')},{quote(key.target, safe='')}"


def _read_slot(slot: bytes) -> int | None:
    digits, _, checksum = slot.rstrip(b"\n").partition(b" ")
    if len(digits) != _DIGITS or not digits.isdigit() or checksum != f"{crc32(digits):08x}".encode():
        return None
    return int(digits)
