"""What a provider needs to give its devices other firmware: a registry, signed packages, a catalog, and rules."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crds.models.firmware_policy import CONFIG_MAP, KEY
from crds.models.fluidos import FLUIDOS_NAMESPACE
from crds.models.repurposing import REPURPOSING_CONFIG_MAP, REPURPOSING_KEY
from flash_controller.domain.composition import Built, compose
from flash_controller.domain.recipe import BoardRecipe, Recipe
from flash_controller.oci.registry import Registry
from flash_controller.packaging.layout import save
from flash_controller.packaging.publish import push, sign
from scripts.demo.idle import BOARD, PACKAGES, SIZE, Package
from scripts.demo.inventory import NAMESPACE
from scripts.demo.site import Provider
from scripts.simulator.firmware import build
from scripts.testbed import registry

SIGNER: Final = "demo"


class Workshop:
    """One provider's.

    Args:
        provider: whose catalog it is.
        directory: gets images and keys.
        stack: ends the registry.
    """

    def __init__(self, provider: Provider, directory: Path, *, stack: ExitStack) -> None:
        directory.mkdir()
        self._provider = provider
        self._directory = directory
        self._registry = stack.enter_context(registry.Registry(directory / "registry"))
        self._key = ec.generate_private_key(ec.SECP256R1())

    def image(self, package: Package) -> Path:
        """The file of a package's image; made when absent."""
        file = self._directory / f"{package.name}.bin"
        if not file.exists():
            made = build(
                package.application, version=package.version, security_counter=package.counter, board=BOARD, size=SIZE
            )
            file.write_bytes(made)
        return file

    def start(self) -> None:
        """Say whose firmware is taken, and what may be made of which devices for whom; publish all packages."""
        public = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        signer = {"name": SIGNER, "publicKey": public, "applications": ["*"]}
        self._configure(CONFIG_MAP, KEY, {"keys": [signer], "plainHTTP": [self._registry.host]})
        # Whoever is known here may have an idle board made into something that sees.
        rule = {"trustDomains": ["*"], "devices": {"boards": [BOARD]}, "applications": ["visibility"]}
        self._configure(REPURPOSING_CONFIG_MAP, REPURPOSING_KEY, {"rules": [rule]})
        for package in PACKAGES:
            self._publish(package)
            self._provider.cluster.apply([self._firmware(package)])

    def _publish(self, package: Package) -> None:
        """As an author does: composed, pushed, signed."""
        image = self.image(package)
        recipe = Recipe(
            application=package.application.application,
            version=package.version,
            boards={BOARD: BoardRecipe(image=image.name)},
            sensors=package.application.sensors,
        )
        layout = compose(recipe, {BOARD: Built(image.name, image.read_bytes())})
        repository = f"{self._registry.host}/{package.name}"
        folder = self._directory / package.name
        save(layout, folder)

        async def work() -> None:
            async with Registry(repository, plain_http=True) as registry:
                digest = await push(registry, folder, tags=(package.version,))
                await sign(registry, repository=repository, digest=digest, key=self._key)

        asyncio.run(work())

    def _firmware(self, package: Package) -> dict[str, Any]:
        spec = {"repository": f"{self._registry.host}/{package.name}", "tag": package.version, "plainHTTP": True}
        return {
            "apiVersion": "edge.fluidos.eu/v1alpha1",
            "kind": "Firmware",
            "metadata": {"name": package.name, "namespace": NAMESPACE},
            "spec": spec,
        }

    def _configure(self, name: str, key: str, value: dict[str, Any]) -> None:
        metadata = {"name": name, "namespace": FLUIDOS_NAMESPACE}
        data = {key: yaml.safe_dump(value)}
        self._provider.cluster.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}])
