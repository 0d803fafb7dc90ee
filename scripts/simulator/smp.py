"""The SMP server of a simulated board: what Zephyr's MCUmgr does with the image and OS groups.

Pure but for the flash that it writes. Frames are those of Zephyr's `smp_protocol.rst`: a header of eight bytes and a
CBOR map. Errors are of version 2 where the request is, else of version 1.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, TypeAlias

import cbor2

from scripts.simulator.flash import PERMANENT, PRIMARY, REVERT, SECONDARY, SLOT_BYTES, TEST, Flash, Slot

BUFFER_BYTES: Final = 2048
"""The longest frame that it takes, as a board's memory has it."""
MAX_DEPTH: Final = 4
READ, WRITE = 0, 2
OS, IMAGE = 0, 1
MAGIC: Final = bytes.fromhex("3db8f396")
HEADER_BYTES: Final = 32
_HEAD: Final = struct.Struct("!BBHHBB")
Map: TypeAlias = dict[str, Any]


class Code(IntEnum):
    """`mcumgr_err_t`: what version 1 says, and version 2 of what belongs to no group."""

    UNKNOWN = 1
    INVALID = 3
    BAD_STATE = 6
    NOT_SUPPORTED = 8


class ImageCode(IntEnum):
    """`img_mgmt_err_code_t`."""

    HASH_NOT_FOUND = 8
    NO_FREE_SLOT = 9
    INVALID_LENGTH = 21
    INVALID_HEADER = 22
    INVALID_MAGIC = 23
    INVALID_HASH = 24
    TOO_LARGE = 30
    OVERRUN = 31
    TEST_TO_ACTIVE = 33


class _RefusedError(Exception):
    def __init__(self, code: Code | ImageCode) -> None:
        super().__init__(code.name)
        self.code = code


@dataclass(slots=True)
class _Upload:
    """What Zephyr holds in memory while an image comes: gone with a reset."""

    length: int
    sha: bytes | None
    offset: int = 0
    hash: Any = field(default_factory=hashlib.sha256)


class SmpServer:
    """One life of a board's MCUmgr, from boot to reset.

    Args:
        flash: of the board.
        reset: is called when a reset was asked for, before it is answered.
    """

    def __init__(self, flash: Flash, *, reset: Callable[[], None]) -> None:
        self._flash = flash
        self._reset = reset
        self._upload: _Upload | None = None
        self._commands: Mapping[tuple[int, int, int], Callable[[Map], Map]] = {
            (OS, 0, WRITE): lambda said: {"r": _taken(said, "d", str)},
            (OS, 5, WRITE): self._restart,
            (OS, 6, READ): lambda _: {"buf_size": BUFFER_BYTES, "buf_count": 4},
            (OS, 8, READ): _boot_loader,
            (IMAGE, 0, READ): lambda _: self._states(),
            (IMAGE, 0, WRITE): self._set_state,
            (IMAGE, 1, WRITE): self._receive,
            (IMAGE, 5, WRITE): self._erase,
        }

    def answer(self, frame: bytes) -> bytes | None:
        """The answer to one frame; None where there is nothing that could be answered.

        Raises:
            PowerCutError: the board went dark over it.
        """
        if not _HEAD.size <= len(frame) <= BUFFER_BYTES:
            return None
        head, _, length, group, sequence, number = _HEAD.unpack_from(frame)
        operation, version = head & 0b111, head >> 3 & 0b11
        if operation not in (READ, WRITE) or length != len(frame) - _HEAD.size:
            return None
        try:
            said = self._commands.get((group, number, operation), _unknown)(_map(frame[_HEAD.size :]))
        except _RefusedError as error:
            said = _error(error.code, version)
        body = cbor2.dumps(said)
        return _HEAD.pack(version << 3 | operation + 1, 0, len(body), group, sequence, number) + body

    def _restart(self, _: Map) -> Map:
        self._reset()
        return {}

    def _states(self) -> Map:
        state = self._flash.state
        swap = state.swap if state.confirmed else REVERT
        first, second = self._flash.slot(PRIMARY), self._flash.slot(SECONDARY)
        found = []
        if first is not None:
            found.append(_state(0, first, active=True, confirmed=state.confirmed))
        if second is not None:
            # While a test runs, the image that would come back counts as the confirmed one.
            marks = {"confirmed": swap == REVERT, "pending": swap in (TEST, PERMANENT), "permanent": swap == PERMANENT}
            found.append(_state(1, second, **marks))
        return {"images": found, "splitStatus": 0}

    def _set_state(self, said: Map) -> Map:
        wanted, confirm = _taken(said, "hash", bytes, default=None), _taken(said, "confirm", bool, default=False)
        slots = {name: _hash(self._flash.slot(name)) for name in (PRIMARY, SECONDARY)}
        if wanted is None and not confirm:
            raise _RefusedError(ImageCode.INVALID_HASH)
        if wanted is not None and wanted not in slots.values():
            raise _RefusedError(ImageCode.HASH_NOT_FOUND)
        if wanted is None or wanted == slots[PRIMARY]:
            if not confirm:
                raise _RefusedError(ImageCode.TEST_TO_ACTIVE)
            if not self._flash.state.confirmed:
                self._flash.confirm()
        elif not self._flash.state.confirmed:
            raise _RefusedError(Code.BAD_STATE)
        else:
            self._flash.mark(permanent=confirm)
        return self._states()

    def _receive(self, said: Map) -> Map:
        offset, data = _taken(said, "off", int), _taken(said, "data", bytes)
        if offset == 0:
            self._begin(said, data)
        upload = self._upload
        if upload is None:
            raise _RefusedError(Code.BAD_STATE)
        if offset == upload.offset:
            if offset + len(data) > upload.length:
                raise _RefusedError(ImageCode.OVERRUN)
            self._flash.write(offset, data)
            upload.hash.update(data)
            upload.offset += len(data)
        answer: Map = {"off": upload.offset}
        if upload.offset == upload.length:
            answer["match"] = upload.sha in (None, upload.hash.digest())
            self._upload = None
        return answer

    def _begin(self, said: Map, data: bytes) -> None:
        """A new image, or the rest of one whose upload was interrupted: its hash is how it is known again."""
        length, sha = _taken(said, "len", int, default=None), _taken(said, "sha", bytes, default=None)
        if length is None:
            raise _RefusedError(ImageCode.INVALID_LENGTH)
        if self._upload is not None and sha is not None and (length, sha) == (self._upload.length, self._upload.sha):
            return
        if len(data) < HEADER_BYTES:
            raise _RefusedError(ImageCode.INVALID_HEADER)
        if not data.startswith(MAGIC):
            raise _RefusedError(ImageCode.INVALID_MAGIC)
        if length > SLOT_BYTES:
            raise _RefusedError(ImageCode.TOO_LARGE)
        self._erase({})
        self._upload = _Upload(length, sha)

    def _erase(self, _: Map) -> Map:
        state = self._flash.state
        if not state.confirmed or state.swap is not None:
            raise _RefusedError(ImageCode.NO_FREE_SLOT)
        self._upload = None
        self._flash.erase()
        return {}


def _map(body: bytes) -> Map:
    try:
        said = cbor2.loads(body, max_depth=MAX_DEPTH)
    except (cbor2.CBORError, ValueError, TypeError):
        raise _RefusedError(Code.INVALID) from None
    if not isinstance(said, dict):
        raise _RefusedError(Code.INVALID)
    return said


_REQUIRED: Final = object()


def _taken(said: Map, name: str, kind: type, *, default: Any = _REQUIRED) -> Any:
    value: Any = said.get(name, default)
    if value is default and value is not _REQUIRED:
        return value
    # A bool is an int for Python alone; numbers are never negative.
    if type(value) is not kind or (isinstance(value, int) and value < 0):
        raise _RefusedError(Code.INVALID)
    return value


def _unknown(_: Map) -> Map:
    raise _RefusedError(Code.NOT_SUPPORTED)


def _error(code: Code | ImageCode, version: int) -> Map:
    if isinstance(code, Code):
        return {"rc": code}
    return {"err": {"group": IMAGE, "rc": code}} if version else {"rc": Code.UNKNOWN}


def _boot_loader(said: Map) -> Map:
    # 1 is "swap using scratch".
    return {"mode": 1} if said.get("query") == "mode" else {"bootloader": "MCUboot"}


def _hash(slot: Slot | None) -> bytes | None:
    return None if slot is None else bytes.fromhex(slot.image.measurement)


def _state(number: int, slot: Slot, **marks: bool) -> Map:
    # Zephyr writes the build number as a fourth part.
    version = (slot.image.version or "").replace("+", ".")
    marks = {"bootable": True, "pending": False, "confirmed": False, "active": False, "permanent": False} | marks
    return {"image": 0, "slot": number, "version": version, "hash": _hash(slot), **marks}
