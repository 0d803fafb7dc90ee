"""Puts packages and signatures into registries, what is pointed to before what points to it."""

from __future__ import annotations

import orjson
from cryptography.hazmat.primitives.asymmetric import ec

from flash_controller.domain import manifests
from flash_controller.domain.composition import Layout
from flash_controller.domain.manifests import Descriptor, Manifest, describe, index_of, manifest_of, parse
from flash_controller.domain.signatures import ARTIFACT, Signature
from flash_controller.oci.registry import Registry, fallback_tag


async def push(registry: Registry, layout: Layout, *, tags: tuple[str, ...]) -> None:
    """Pushes a package, and then lets tags point to it.

    Raises:
        Retryable: the registry is away or busy; a push may be repeated.
        Terminal: it refuses.
    """
    data = layout.blobs[layout.index.digest]
    for entry in index_of(data).manifests:
        await _push_manifest(registry, layout, entry)
    await registry.put_manifest(data, media_type=layout.index.media_type)
    for referrer in layout.referrers:
        manifest = manifest_of(layout.blobs[referrer.digest])
        await registry.attach(manifest, [layout.blobs[each.digest] for each in (manifest.config, *manifest.layers)])
    for tag in tags:
        await registry.put_manifest(data, media_type=layout.index.media_type, tag=tag)


async def _push_manifest(registry: Registry, layout: Layout, entry: Descriptor) -> None:
    data = layout.blobs[entry.digest]
    manifest = manifest_of(data)
    for each in (manifest.config, *manifest.layers):
        await registry.put_blob(layout.blobs[each.digest])
    await registry.put_manifest(data, media_type=entry.media_type)


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
    media_type = parse(subject).media_type or manifests.INDEX
    manifest = Manifest(
        artifact_type=ARTIFACT,
        config=describe(config, manifests.CONFIG),
        layers=layers,
        subject=describe(subject, media_type),
    )
    await registry.attach(manifest, [config, signature.payload], tag=tag)
