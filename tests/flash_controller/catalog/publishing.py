"""Firmware in a real registry: indexes for some boards, signed or not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crds.models.firmware import FirmwareSensor
from crds.models.leafdevice import Measurement
from flash_controller.domain.composition import Built, compose
from flash_controller.domain.recipe import BoardRecipe, Recipe
from flash_controller.oci.registry import Registry
from flash_controller.packaging import publish as publishing
from flash_controller.packaging.layout import save

SENSOR: Final = FirmwareSensor(
    uid="1", model="hts221", measurements=(Measurement(type="Humidity", unit="%"),), topic="device/{device}/{sensor}"
)


@dataclass
class Key:
    """Somebody who signs."""

    name: str
    private: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def pem(self) -> str:
        public = self.private.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def entry(self, *applications: str) -> dict[str, Any]:
        """As the policy names it."""
        return {"name": self.name, "publicKey": self.pem(), "applications": list(applications) or ["*"]}


def image(version: str, board: str) -> bytes:
    """An image with no header that anybody knows."""
    return f"{version} for {board}".encode() * 100


def measurement(version: str, board: str) -> str:
    """What its boot layer makes of it."""
    return hashlib.sha512(image(version, board)).hexdigest()


async def publish(
    repository: str,
    *,
    version: str = "1.2.3",
    tags: Sequence[str] = (),
    boards: Sequence[str] = ("nrf52840dk",),
    sign: Key | None = None,
) -> str:
    """Push an index, under these tags or else its version; its digest."""
    recipe = Recipe(
        application="thermo",
        version=version,
        security_counter=3,
        boards={board: BoardRecipe(image="image.bin") for board in boards},
        sensors=(SENSOR,),
    )
    layout = compose(recipe, {board: Built("image.bin", image(version, board)) for board in boards})
    async with Registry(repository, plain_http=True) as registry:
        with TemporaryDirectory() as folder:
            save(layout, Path(folder))
            digest = await publishing.push(registry, Path(folder), tags=tuple(tags) or (version,))
        if sign is not None:
            await publishing.sign(registry, repository=repository, digest=digest, key=sign.private)
    return digest
