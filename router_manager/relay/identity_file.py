"""Who a spool is: 32 random hex digits in a file. The first eight mark its records, so they outlive the file."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import structlog

from router_manager.relay.segment import MARK_BYTES

log = structlog.get_logger(__name__)

_DIGITS = 32


def spool_identity(path: Path, *, files: Sequence[Path]) -> tuple[str, bool]:
    """Read or make the identity.

    Args:
        path: of the file.
        files: segments of the spool. Where the file is lost or damaged, the mark that most of them begin with stays.

    Returns:
        The identity, and whether that of an earlier life is lost: targets then see new `Idempotency-Key`s.

    Raises:
        OSError: it cannot be written.
    """
    found = _read(path)
    if found is not None:
        return found, False
    marks = Counter(mark for file in files if len(mark := _first_bytes(file)) == MARK_BYTES)
    lost = bool(files) or path.exists()
    if lost:
        log.error("the spool's identity is lost; its records are read by the mark that they bear", file=str(path))
    mark = marks.most_common(1)[0][0] if marks else secrets.token_bytes(MARK_BYTES)
    identity = mark.hex() + secrets.token_hex(_DIGITS // 2 - MARK_BYTES)
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        file.write(identity)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_directory(path.parent)
    return identity, lost


def sync_directory(directory: Path) -> None:
    """What was created or renamed in it survives a power cut.

    Raises:
        OSError: the disk does not take it.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> str | None:
    try:
        text = path.read_bytes().strip()
        return text.decode() if len(text) == _DIGITS and bytes.fromhex(text.decode()) else None
    except (OSError, ValueError):
        return None


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MARK_BYTES)
    except OSError:
        return b""
