"""Packages in a real registry: one index for eight boards, as a maker of firmware has it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from flash_controller.domain.composition import Built, Layout, compose
from flash_controller.domain.recipe import BoardRecipe, Recipe
from flash_controller.oci.registry import Registry
from flash_controller.packaging.layout import save
from flash_controller.packaging.publish import push

BOARDS = tuple(f"board{number}" for number in range(8))
IMAGE_BYTES = 256 * 1024


@dataclass(frozen=True)
class Shelf:
    """A package and where it is.

    Attributes:
        path: of the repository, at any registry that leads there.
        layout: what was pushed.
        images: by board.
    """

    path: str
    layout: Layout
    images: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        return self.layout.index.digest


def images(*, size: int = IMAGE_BYTES, seed: int = 1) -> dict[str, bytes]:
    """Nothing that compresses, and never twice the same."""
    source = random.Random(seed)  # noqa: S311 - bytes for a test
    return {board: source.randbytes(size) for board in BOARDS}


async def stock(host: str, path: str, *, version: str = "1.2.3", seed: int = 1, tags: tuple[str, ...] = ()) -> Shelf:
    """Pushes a package."""
    made = images(seed=seed)
    boards = {board: BoardRecipe(image=f"{board}.bin") for board in made}
    recipe = Recipe(application="thermo", version=version, boards=boards)
    layout = compose(recipe, {board: Built(f"{board}.bin", image) for board, image in made.items()})
    with TemporaryDirectory() as folder:
        save(layout, Path(folder))
        async with Registry(f"{host}/{path}", plain_http=True) as registry:
            await push(registry, Path(folder), tags=tags or (version,))
    return Shelf(path, layout, made)
