"""Firmware in a real registry: indexes for some boards, signed or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from flash_controller.domain.manifests import (
    ARTIFACT,
    CONFIG,
    INDEX,
    LAYER,
    MANIFEST,
    OS,
    Descriptor,
    Index,
    Manifest,
    Platform,
    describe,
    digest_of,
    serialized,
)
from flash_controller.domain.packages import SENSORS, Facts
from flash_controller.domain.signatures import ARTIFACT as SIGNATURE
from flash_controller.domain.signatures import Signature
from flash_controller.oci.registry import Registry

SENSOR: Mapping[str, Any] = {
    "uid": "1",
    "model": "hts221",
    "measurements": [{"type": "Humidity", "unit": "%"}],
    "topic": "device/{device}/{sensor}",
}


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


def facts(version: str, board: str) -> Facts:
    """Of one board's image."""
    measurement = digest_of(f"{version} {board}".encode()).removeprefix("sha256:")
    return Facts(application="thermo", version=version, security_counter=3, measurement=measurement)


async def publish(
    repository: str,
    *,
    version: str = "1.2.3",
    tags: Sequence[str] = (),
    boards: Sequence[str] = ("nrf52840dk",),
    sign: Key | None = None,
) -> str:
    """Push an index, under these tags or else its version; its digest."""
    async with Registry(repository, plain_http=True) as registry:
        entries = []
        for board in boards:
            image = f"{version} for {board}".encode() * 100
            platform = Platform(os=OS, architecture=board)
            config = orjson.dumps({"os": OS, "architecture": board})
            manifest = Manifest(config=describe(config, CONFIG), layers=(describe(image, LAYER),))
            data = serialized(manifest)
            await registry.put_blob(image)
            await registry.put_blob(config)
            await registry.put_manifest(data, media_type=MANIFEST)
            said = {"platform": platform, "annotations": facts(version, board).annotations()}
            entries.append(describe(data, MANIFEST).model_copy(update=said))
        whole = Facts(application="thermo", version=version, security_counter=3).annotations()
        whole |= {SENSORS: orjson.dumps([SENSOR]).decode()}
        data = serialized(Index(artifact_type=ARTIFACT, manifests=tuple(entries), annotations=whole))
        for tag in tags or (version,):
            await registry.put_manifest(data, media_type=INDEX, tag=tag)
        if sign is not None:
            await _sign(registry, repository, describe(data, INDEX), sign)
    return digest_of(data)


async def _sign(registry: Registry, repository: str, subject: Descriptor, key: Key) -> None:
    signature = Signature.make(repository=repository, digest=subject.digest, key=key.private)
    config = b"{}"
    manifest = Manifest(
        artifact_type=SIGNATURE, config=describe(config, CONFIG), layers=(signature.layer(),), subject=subject
    )
    await registry.attach(manifest, (config, signature.payload))
