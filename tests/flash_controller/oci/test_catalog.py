"""What is in a registry: packages of ours and of others, and who signed them."""

from __future__ import annotations

import asyncio
import gzip
import io
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crds.errors import InvalidField, Terminal
from flash_controller.domain import manifests
from flash_controller.domain.manifests import Manifest, describe, digest_of, manifest_of, serialized
from flash_controller.domain.signatures import Signature, signature_of, verified_by
from flash_controller.oci.cache import Cache
from flash_controller.oci.catalog import Resolved, read_package, resolve, signatures
from flash_controller.oci.pull import pull
from flash_controller.oci.registry import Registry, fallback_tag
from flash_controller.packaging.layout import save
from flash_controller.packaging.publish import push, put_blob, sign
from scripts.testbed import registry as testbed
from tests.flash_controller.firmware import esp_idf
from tests.flash_controller.oci.shelf import BOARDS, Shelf, stock

DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@pytest.fixture(scope="module")
async def shelf(registry: testbed.Registry) -> Shelf:
    return await stock(registry.host, "firmware/shown", tags=("1.2.3", "1.10.0", "2.0.0-rc.1", "latest"))


def at(registry: testbed.Registry, path: str) -> Registry:
    return Registry(f"{registry.host}/{path}", plain_http=True)


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


async def test_a_package_is_read_as_it_was_composed(registry: testbed.Registry, shelf: Shelf) -> None:
    async with at(registry, shelf.path) as repository:
        package = await read_package(repository, shelf.digest)
    assert (package.facts.application, package.facts.version) == ("thermo", "1.2.3")
    assert [part.board for part in package.parts] == list(BOARDS)
    assert [part.blob.digest for part in package.parts] == [digest_of(image) for image in shelf.images.values()]


@pytest.mark.parametrize(
    ("reference", "tag"),
    [
        ({"semver": "^1"}, "1.10.0"),
        ({"semver": "~1.2", "tag": "latest"}, "1.2.3"),
        ({"tag": "latest"}, "latest"),
        ({"digest": "given", "semver": "^1", "tag": "latest"}, ""),
    ],
)
async def test_the_most_exact_reference_counts(
    reference: dict[str, str], tag: str, registry: testbed.Registry, shelf: Shelf
) -> None:
    if "digest" in reference:
        reference = {**reference, "digest": shelf.digest}
    async with at(registry, shelf.path) as repository:
        assert await resolve(repository, **reference) == Resolved(shelf.digest, tag)


async def test_a_range_that_nothing_is_in_is_told(registry: testbed.Registry, shelf: Shelf) -> None:
    async with at(registry, shelf.path) as repository:
        with pytest.raises(Terminal, match=r"within \^7") as refusal:
            await resolve(repository, semver="^7")
    assert refusal.value.reason == "NotFound"


async def docker_push(repository: Registry, boards: Sequence[tuple[str, bytes]]) -> list[dict[str, Any]]:
    """What `docker buildx build --platform custom/<board>` of a `FROM scratch` with firmware/ota.bin leaves."""
    entries = []
    for board, image in boards:
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as file:
            member = tarfile.TarInfo("firmware/ota.bin")
            member.size = len(image)
            file.addfile(member, io.BytesIO(image))
        layer = gzip.compress(tar.getvalue())
        config = orjson.dumps({"os": "custom", "architecture": board, "rootfs": {"type": "layers", "diff_ids": []}})
        manifest = Manifest(
            media_type=DOCKER_MANIFEST,
            config=describe(config, DOCKER_CONFIG),
            layers=(describe(layer, DOCKER_LAYER),),
        )
        data = serialized(manifest)
        for blob in (layer, config):
            await put_blob(repository, blob)
        await repository.put_manifest(data, media_type=DOCKER_MANIFEST)
        platform = {"os": "custom", "architecture": board}
        entries.append({**describe(data, DOCKER_MANIFEST).dump(), "platform": platform})
    return entries


async def test_an_index_of_nubificus_is_read_and_pulled(registry: testbed.Registry, path: str, tmp_path: Path) -> None:
    image = esp_idf(version="0.2.0")
    async with at(registry, path) as repository:
        entries = await docker_push(repository, [("esp32s3", image), ("esp32c6", esp_idf(chip=13))])
        index = orjson.dumps({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": entries})
        await repository.put_manifest(index, media_type=DOCKER_LIST, tag="thermo-0.2.0-KEY1")
        found = await resolve(repository, tag="thermo-0.2.0-KEY1")
        package = await read_package(repository, found.digest)
        pulled = await pull(repository, digest=found.digest, board="esp32-s3", cache=Cache(tmp_path))
    assert [part.board for part in package.parts] == ["esp32s3", "esp32c6"]
    assert package.facts.application is None
    assert (pulled.data, pulled.image.version) == (image, "0.2.0")


async def test_a_manifest_without_an_index_is_for_its_own_platform(
    registry: testbed.Registry, path: str, tmp_path: Path
) -> None:
    image = esp_idf()
    async with at(registry, path) as repository:
        (entry,) = await docker_push(repository, [("esp32s3", image)])
        package = await read_package(repository, entry["digest"])
        assert (await pull(repository, digest=entry["digest"], board="esp32s3", cache=Cache(tmp_path))).data == image
        with pytest.raises(Terminal, match=r"for custom/esp32s3, expected custom/esp32c6"):
            await pull(repository, digest=entry["digest"], board="esp32c6", cache=Cache(tmp_path))
    assert [part.board for part in package.parts] == ["esp32s3"]


async def test_a_container_image_is_no_firmware(registry: testbed.Registry, path: str) -> None:
    config = b'{"os": "linux", "architecture": "amd64"}'
    data = serialized(Manifest(config=describe(config, DOCKER_CONFIG), layers=(describe(b"x", DOCKER_LAYER),)))
    async with at(registry, path) as repository:
        for blob in (b"x", config):
            await put_blob(repository, blob)
        await repository.put_manifest(data, media_type=manifests.MANIFEST)
        with pytest.raises(Terminal, match=r"platform\.os custom") as refusal:
            await read_package(repository, digest_of(data))
    assert refusal.value.reason == "NoSuchBoard"


async def test_whose_signature_it_is_is_found(registry: testbed.Registry, path: str) -> None:
    maker, other, stranger = new_key(), new_key(), new_key()
    shelf = await stock(registry.host, path)
    async with at(registry, path) as repository:
        assert verified_by(shelf.digest, await signatures(repository, shelf.digest), {"maker": pem(maker)}) is None
        for key in (stranger, maker):
            await sign(repository, repository=path, digest=shelf.digest, key=key)
        found = await signatures(repository, shelf.digest)
    assert verified_by(shelf.digest, found, {"other": pem(other), "maker": pem(maker)}) == "maker"
    with pytest.raises(Terminal, match="by no key of the policy") as refusal:
        verified_by(shelf.digest, found, {"other": pem(other)})
    assert refusal.value.reason == "NotTrusted"


async def test_a_signature_of_another_digest_is_none(registry: testbed.Registry, path: str) -> None:
    key = new_key()
    shelf = await stock(registry.host, path)
    another = Signature.make(repository=path, digest="sha256:" + "0" * 64, key=key)
    assert verified_by(shelf.digest, [another], {"maker": pem(key)}) is None


async def test_signatures_are_found_by_tag_and_by_referrer_and_count_once(
    registry: testbed.Registry, path: str
) -> None:
    key = new_key()
    shelf = await stock(registry.host, path)
    async with at(registry, path) as repository:
        await sign(repository, repository=path, digest=shelf.digest, key=key)
        await sign(repository, repository=path, digest=shelf.digest, key=key)
        tagged = manifest_of(await repository.manifest(f"{fallback_tag(shelf.digest)}.sig"))
        kinds = [referrer.artifact_type for referrer in await repository.referrers(shelf.digest)]
        assert len(await signatures(repository, shelf.digest)) == 1
    assert tagged.subject is not None
    assert tagged.subject.digest == shelf.digest
    assert sorted(filter(None, kinds)) == [
        "application/vnd.cyclonedx+json",
        "application/vnd.dev.cosign.artifact.sig.v1+json",
    ]


async def test_openssl_verifies_what_we_sign(registry: testbed.Registry, path: str, tmp_path: Path) -> None:
    key = new_key()
    shelf = await stock(registry.host, path)
    async with at(registry, path) as repository:
        await sign(repository, repository=path, digest=shelf.digest, key=key)
        (layer,) = manifest_of(await repository.manifest(f"{fallback_tag(shelf.digest)}.sig")).layers
        (tmp_path / "payload").write_bytes(await repository.small_blob(layer, limit=2**16))
    (tmp_path / "signature").write_bytes(signature_of(layer) or b"")
    (tmp_path / "key.pub").write_text(pem(key))
    command = ["openssl", "dgst", "-sha256", "-verify", "key.pub", "-signature", "signature", "payload"]
    await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, check=True, capture_output=True, timeout=30)
    critical = orjson.loads((tmp_path / "payload").read_bytes())["critical"]
    assert critical["image"] == {"docker-manifest-digest": shelf.digest}


def test_a_key_that_is_none_is_refused_by_name() -> None:
    other = pem(ec.generate_private_key(ec.SECP384R1()))
    unknown = "-----BEGIN PUBLIC KEY-----\nMAwwBgYCKgMFAAMCAAE=\n-----END PUBLIC KEY-----\n"
    for text in ("", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", other, unknown):
        with pytest.raises(InvalidField, match=r"keys\[maker\]"):
            verified_by("sha256:", [], {"maker": text})


async def test_a_push_may_be_repeated(registry: testbed.Registry, shelf: Shelf, tmp_path: Path) -> None:
    save(shelf.layout, tmp_path)
    async with at(registry, shelf.path) as repository:
        assert await push(repository, tmp_path, tags=("1.2.3",)) == shelf.digest
        assert await repository.digest("1.2.3") == shelf.digest
        assert len(await repository.referrers(shelf.digest)) == 1
