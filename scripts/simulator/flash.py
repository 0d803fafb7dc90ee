"""A simulated board's flash: two slots, and a boot layer that swaps and reverts them as MCUboot does.

The flash is files, so that it outlives its process as real flash outlives a power cut, which may come at any byte: what
is written sector by sector is done again from where the journal says that it ended. MCUboot keeps the same marks in
the trailers of its slots (docs/design.md of mcu-tools/mcuboot, "swap using scratch").
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crds.errors import InvalidField, Terminal
from flash_controller.domain.images import Format, Image, read_image

SLOT_BYTES: Final = 512 * 1024
SECTOR_BYTES: Final = 16 * 1024
STEPS: Final = 3 * (SLOT_BYTES // SECTOR_BYTES)
PRIMARY, SECONDARY, SCRATCH, JOURNAL = "slot0", "slot1", "scratch", "journal"
ERASED: Final = b"\xff"
# What the journal says, a byte each: flash writes a byte wholly or not at all.
TEST, PERMANENT, REVERT, STEP, CONFIRM, DROP = b"tprscd"
_COPIES: Final = ((SECONDARY, SCRATCH), (PRIMARY, SECONDARY), (SCRATCH, PRIMARY))
"""The steps of a sector's swap: each can be done again, for none changes what it reads from."""


class PowerCutError(Exception):
    """The board is dark from here on, whatever it was about to do."""


class UnbootableError(Terminal):
    """The primary slot holds nothing that may be started."""


@dataclass(frozen=True, slots=True)
class Slot:
    """An image in its slot."""

    image: Image
    data: bytes

    @property
    def body(self) -> bytes:
        """Its code, without MCUboot's header and TLVs."""
        start, size = int.from_bytes(self.data[8:10], "little"), int.from_bytes(self.data[12:16], "little")
        return self.data[start : start + size]


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the journal adds up to.

    Attributes:
        swap: that is marked or was begun: TEST, PERMANENT or REVERT.
        steps: of it that are done.
        confirmed: what is in the primary slot is there to stay.
    """

    swap: int | None = None
    steps: int = 0
    confirmed: bool = True


def remembered(journal: bytes) -> Remembered:
    """Read a journal."""
    swap, steps, confirmed = None, 0, True
    for record in journal:
        if record in (TEST, PERMANENT, REVERT):
            swap, steps = record, 0
        elif record == STEP:
            steps += 1
            if steps == STEPS:
                swap, confirmed = None, swap != TEST
        elif record == CONFIRM:
            confirmed = True
        else:
            swap = None
    return Remembered(swap, steps, confirmed)


class Flash:
    """Two slots in a folder.

    Args:
        directory: made when absent; `install` puts the first image there.
        key: public key (PEM) that images must be signed for; any is started without it, if its hash is right.
        power: bytes that it writes before its power is cut; None for ever.
    """

    def __init__(self, directory: Path, *, key: Path | None = None, power: int | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.power = power
        self._directory = directory
        self._key = key
        for name, size in ((PRIMARY, SLOT_BYTES), (SECONDARY, SLOT_BYTES), (SCRATCH, SECTOR_BYTES), (JOURNAL, 0)):
            if not (directory / name).exists():
                (directory / name).write_bytes(ERASED * size)

    @property
    def state(self) -> Remembered:
        """What the boot layer remembers."""
        return remembered((self._directory / JOURNAL).read_bytes())

    def slot(self, name: str) -> Slot | None:
        """What a slot holds; None where that is no image, or not all of one."""
        data = (self._directory / name).read_bytes()
        try:
            image = read_image(data)
        except InvalidField:
            return None
        return Slot(image, data) if image.format is Format.MCUBOOT else None

    @property
    def empty(self) -> bool:
        """Whether nothing was ever put into it."""
        return not (self._directory / PRIMARY).read_bytes().strip(ERASED)

    def install(self, image: bytes) -> None:
        """What a factory does: put an image into the primary slot, confirmed."""
        self._write(PRIMARY, 0, image.ljust(SLOT_BYTES, ERASED))

    def erase(self) -> None:
        """Empty the secondary slot, and forget any mark of it."""
        if self.state.swap is not None:
            self._note(DROP)
        self._write(SECONDARY, 0, ERASED * SLOT_BYTES)

    def write(self, at: int, data: bytes) -> None:
        """Write into the secondary slot."""
        self._write(SECONDARY, at, data)

    def mark(self, *, permanent: bool) -> None:
        """Have the slots swapped by the next boot: for a test, or for good."""
        self._note(PERMANENT if permanent else TEST)

    def confirm(self) -> None:
        """Keep what runs."""
        self._note(CONFIRM)

    def boot(self) -> Slot:
        """What the boot layer does: swap what is marked, revert what was not confirmed, go on with what was cut.

        Raises:
            PowerCutError: in the middle of it.
            UnbootableError: there is nothing to start.
        """
        state = self.state
        if state.swap is None and not state.confirmed:
            self._note(REVERT)
        elif state.swap in (TEST, PERMANENT) and not state.steps and not self._may_start():
            self._note(DROP)
        state = self.state
        if state.swap is not None:
            for step in range(state.steps, STEPS):
                self._copy_sector(step)
        slot = self.slot(PRIMARY)
        if slot is None:
            raise UnbootableError(f"{self._directory / PRIMARY}: no image", reason="Unbootable")
        return slot

    def _may_start(self) -> bool:
        """Whether the boot layer accepts what is in the secondary slot."""
        new, old = self.slot(SECONDARY), self.slot(PRIMARY)
        if new is None or (old is not None and (new.image.security_counter or 0) < (old.image.security_counter or 0)):
            return False
        if self._key is None:
            return True
        command = (sys.executable, "-m", "imgtool.main", "verify", "-k", self._key, self._directory / SECONDARY)
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0

    def _copy_sector(self, step: int) -> None:
        sector, part = divmod(step, len(_COPIES))
        source, target = _COPIES[part]
        at = {name: 0 if name == SCRATCH else sector * SECTOR_BYTES for name in (source, target)}
        with (self._directory / source).open("rb") as file:
            data = os.pread(file.fileno(), SECTOR_BYTES, at[source])
        self._write(target, at[target], data)
        self._note(STEP)

    def _note(self, record: int) -> None:
        self._write(JOURNAL, (self._directory / JOURNAL).stat().st_size, bytes([record]))

    def _write(self, name: str, at: int, data: bytes) -> None:
        kept = data if self.power is None else data[: self.power]
        with (self._directory / name).open("r+b") as file:
            os.pwrite(file.fileno(), kept, at)
        if self.power is not None:
            self.power -= len(kept)
        if len(kept) < len(data):
            raise PowerCutError
