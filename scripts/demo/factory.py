"""The boards that can prove what they are, and the firmware in their flash."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from crds.models.appraisal import AppraisalPolicy
from scripts.demo.inventory import LeafBoard
from scripts.simulator.dice import Image
from scripts.simulator.factory import Factory, open_board

APPLICATION: Final = "environment"
VERSION: Final = "1.2.0"
COUNTER: Final = 3
CODE: Final = b"measures the environment, and nothing else\n" * 1024


class Boards:
    """One manufacturer's boards, all with the same firmware.

    Args:
        directory: for secrets, certificates and flashes; made when absent.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._factory = Factory.open(directory, name="simulated")

    @property
    def policy(self) -> AppraisalPolicy:
        """By which a site believes these boards with this firmware."""
        image = Image(code=CODE, application=APPLICATION, version=VERSION, counter=COUNTER)
        return self._factory.policy([image])

    def flash(self, board: LeafBoard) -> Path:
        """What is in a board's flash; written before the board is first used."""
        return self._directory / f"{board.name}.flash"

    def ueid(self, board: LeafBoard) -> str | None:
        """The name that a board can prove; None for what has no MCU. A new board gets its firmware."""
        if not board.mcu:
            return None
        if not self.flash(board).exists():
            self.flash(board).write_bytes(CODE)
        # Certificates of both forms, as there are in the field.
        form = "cbor" if board.mcu_family == "STM32" else "x509"
        return str(open_board(self._file(board), factory=self._factory, form=form).ueid)

    def blank(self, name: str) -> str:
        """The name that a new board can prove whose flash somebody else fills."""
        return str(open_board(self._directory / f"{name}.json", factory=self._factory).ueid)

    def hardware(self, name: str, *, attest: str, bundle: Path) -> dict[str, Any]:
        """What the simulator needs to know of a board, whatever it runs.

        Args:
            name: of the board.
            attest: where it attests.
            bundle: roots of the trust domain that it belongs to.
        """
        return {"board": str(self._directory / f"{name}.json"), "attest": attest, "bundle": str(bundle)}

    def repair(self) -> None:
        """Put the good firmware back into every flash."""
        for flash in self._directory.glob("*.flash"):
            flash.write_bytes(CODE)

    def identity(self, board: LeafBoard, *, attest: str, bundle: Path) -> dict[str, Any]:
        """What the simulator needs to know of a board that proves itself.

        Args:
            board: has a name that it can prove.
            attest: where it attests.
            bundle: roots of the trust domain that it belongs to.
        """
        runs = {"application": APPLICATION, "version": VERSION, "counter": COUNTER}
        return {**self.hardware(board.name, attest=attest, bundle=bundle), "image": str(self.flash(board)), **runs}

    def _file(self, board: LeafBoard) -> Path:
        return self._directory / f"{board.name}.json"
