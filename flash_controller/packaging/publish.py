"""Puts packages and signatures into registries, what is pointed to before what points to it.

oras knows layouts and uploads; how a registry is asked is `flash_controller.oci`'s: logins, certificates, time limits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import orjson
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from oras import provider
from oras.layout import Layout

from crds.errors import InvalidField
from flash_controller.domain import manifests
from flash_controller.domain.manifests import Index, Manifest, describe, manifest_of, parse, serialized
from flash_controller.domain.signatures import ARTIFACT, Signature
from flash_controller.oci.registry import Registry, fallback_tag
from flash_controller.packaging.layout import load

_HOST: Final = "registry.invalid"
"""Any registry, as oras knows it, which takes some real ones (`localhost`) for a part of the path."""


async def push(registry: Registry, folder: Path, *, tags: tuple[str, ...]) -> str:
    """Pushes the package of a layout, and then lets tags point to it; gives its digest.

    Raises:
        InvalidField: the folder has no package.
        Retryable: the registry is away or busy; a push may be repeated.
        Terminal: it refuses.
    """
    layout = load(folder)
    client = _Client(registry)
    for root in (layout.index, *layout.referrers):
        place = f"{client.repository}@{root.digest}"
        try:
            answer = await asyncio.to_thread(Layout(str(folder)).push_to_registry, client, place, root.digest)
        except (AttributeError, RecursionError) as error:
            # oras looks for manifests among all blobs that are JSON.
            expected = "no image that is a bare JSON array, text or number"
            raise InvalidField(field="layout", value=str(folder), expected=expected) from error
        await _list(registry, layout.blobs[root.digest], answer.headers)
    for tag in tags:
        await registry.put_manifest(layout.blobs[layout.index.digest], media_type=layout.index.media_type, tag=tag)
    return layout.index.digest


async def sign(registry: Registry, *, repository: str, digest: str, key: ec.EllipticCurvePrivateKey) -> None:
    """Signs an index: beside the signatures that it has, under cosign's tag and as a referrer.

    Raises:
        Retryable: the registry is away or busy.
        Terminal: it refuses, or has no such index.
    """
    subject = await registry.manifest(digest)
    signature = Signature.make(repository=repository, digest=digest, key=key)
    tag = f"{fallback_tag(digest)}.sig"
    before = await registry.manifest_if_any(tag)
    others = () if before is None else manifest_of(before).layers
    layer = signature.layer()
    layers = (*(each for each in others if each != layer), layer)
    rootfs = {"type": "layers", "diff_ids": [each.digest for each in layers]}
    config = orjson.dumps({"architecture": "", "os": "", "config": {}, "rootfs": rootfs}, option=orjson.OPT_SORT_KEYS)
    manifest = Manifest(
        artifact_type=ARTIFACT,
        config=describe(config, manifests.CONFIG),
        layers=layers,
        subject=describe(subject, parse(subject).media_type or manifests.INDEX),
    )
    for blob in (config, signature.payload):
        await put_blob(registry, blob)
    data = serialized(manifest)
    await _list(registry, data, await registry.put_manifest(data, media_type=manifests.MANIFEST, tag=tag))


async def put_blob(registry: Registry, data: bytes) -> None:
    """Uploads a blob, if it is not there yet. Raises as `sign` does."""
    client = _Client(registry)
    with TemporaryDirectory() as folder:
        (path := Path(folder) / "blob").write_bytes(data)
        await asyncio.to_thread(client.upload_blob, str(path), client.repository, describe(data, "").dump())


async def _list(registry: Registry, data: bytes, answer: Mapping[str, str]) -> None:
    """Makes a manifest that has a subject one of its referrers, where the registry does not (specification 1.0)."""
    document = parse(data)
    if not isinstance(document, Manifest) or document.subject is None or "OCI-Subject" in answer:
        return
    own = describe(data, manifests.MANIFEST).model_copy(
        update={"artifact_type": document.artifact_type, "annotations": document.annotations}
    )
    others = await registry.referrers(document.subject.digest)
    listed = Index(manifests=(*(each for each in others if each.digest != own.digest), own))
    tag = fallback_tag(document.subject.digest)
    await registry.put_manifest(serialized(listed), media_type=manifests.INDEX, tag=tag)


class _Client(provider.Registry):
    """oras, in a thread of its own, where the loop of the registry runs."""

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self._registry, self._loop = registry, asyncio.get_running_loop()
        self.repository = f"{_HOST}/{registry.path}"

    def do_request(
        self, url: str, method: str = "GET", data: Any = None, headers: Any = None, **_: Any
    ) -> requests.Response:
        """Asks once: oras would go on for two minutes, whatever went wrong."""
        target = url.removeprefix(f"{self.prefix}://{_HOST}")
        return asyncio.run_coroutine_threadsafe(self._ask(method, target, data, headers), self._loop).result()

    async def _ask(self, method: str, target: str, data: bytes | None, headers: Any) -> requests.Response:
        expected = (200, 404) if method == "HEAD" else (201, 202)
        async with self._registry.request(method, target, expected=expected, headers=headers, data=data) as answer:
            given = requests.Response()
            given.status_code = answer.status
            given.headers.update(answer.headers)
            return given
