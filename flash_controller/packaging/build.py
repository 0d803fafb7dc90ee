"""Builds a recipe: the author's own commands, in the author's own folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from crds.errors import InvalidField, Terminal
from flash_controller.domain.composition import Built
from flash_controller.domain.manifests import MAX_IMAGE
from flash_controller.domain.recipe import BoardRecipe, Recipe

LIMIT_SECONDS: Final = 3600.0
REASON: Final = "BuildFailed"


def build(recipe: Recipe, folder: Path, *, limit_seconds: float = LIMIT_SECONDS) -> dict[str, Built]:
    """What every board gets.

    Args:
        recipe: of which the commands are run, one after another; their output goes to standard error.
        folder: of the recipe.
        limit_seconds: for one command.

    Raises:
        Terminal: a command failed.
        InvalidField: an image or bill of materials is not there, or too large.
    """
    found = {}
    for board, wanted in recipe.boards.items():
        command = wanted.build or recipe.build
        if command is not None:
            _run(command, recipe, board=board, folder=folder, limit_seconds=limit_seconds)
        found[board] = _read(board, wanted, folder)
    return found


def _run(command: str, recipe: Recipe, *, board: str, folder: Path, limit_seconds: float) -> None:
    told = {
        "FIRMWARE_BOARD": board,
        "FIRMWARE_APPLICATION": recipe.application,
        "FIRMWARE_VERSION": recipe.version or "",
        "FIRMWARE_SECURITY_COUNTER": "" if recipe.security_counter is None else str(recipe.security_counter),
    }
    try:
        # Standard output is for what this command says to a pipeline.
        subprocess.run(
            ["sh", "-euc", command],
            cwd=folder,
            env={**os.environ, **told},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            timeout=limit_seconds,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise Terminal(f"the build for board {board} failed: {error}", reason=REASON) from error


def _read(board: str, wanted: BoardRecipe, folder: Path) -> Built:
    image = folder / wanted.image
    bill = None if wanted.sbom is None else _content(f"boards[{board}].sbom", folder / wanted.sbom)
    return Built(image.name, _content(f"boards[{board}].image", image), bill)


def _content(field: str, path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_IMAGE:
            raise InvalidField(field=field, value=f"{size} bytes", expected=f"at most {MAX_IMAGE} bytes")
        return path.read_bytes()
    except OSError as error:
        raise InvalidField(
            field=field, value=str(path), expected=f"a file that can be read ({error.strerror})"
        ) from error
