"""What a registry holds of firmware: which index a reference means, what is in it, and who signed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from crds.errors import Terminal
from flash_controller.domain.manifests import MAX_CONFIG, OS, Index, describe, manifest_of, parse, parse_config
from flash_controller.domain.packages import Facts, Package, Part, part_of, sensors_of
from flash_controller.domain.signatures import ARTIFACT, MAX_PAYLOAD, Signature, signature_of
from flash_controller.domain.versions import Range
from flash_controller.oci.registry import Registry, fallback_tag
from flash_controller.reasons import PackageReason

MAX_SIGNATURES: Final = 32


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference means now; the tag is empty where the digest was given."""

    digest: str
    tag: str = ""


async def resolve(
    registry: Registry, *, digest: str | None = None, semver: str | None = None, tag: str | None = None
) -> Resolved:
    """The index that is meant: by digest, else the newest version of a range among the tags, else by tag.

    Raises:
        InvalidField: the range is none.
        Terminal: there is nothing of that name.
        Retryable: the registry does not answer.
    """
    if digest is not None:
        return Resolved(digest)
    if semver is not None:
        tag = Range.parse(semver).newest(await registry.tags())
    if tag is None:
        text = f"no tag of the repository is a version within {semver}"
        raise Terminal(text, reason=PackageReason.NOT_FOUND)
    return Resolved(await registry.digest(tag), tag)


async def read_package(registry: Registry, digest: str) -> Package:
    """All that an index says, and the manifests of its boards; of a manifest alone, what it is for.

    Raises:
        InvalidField: names what is wrong in it.
        Terminal: it holds firmware for no board.
        Retryable: the registry does not answer.
    """
    data = await registry.manifest(digest)
    document = parse(data)
    said = document.annotations or {}
    parts: list[Part] = []
    if isinstance(document, Index):
        for board, entry in document.boards().items():
            manifest = manifest_of(await registry.manifest(entry.digest))
            parts.append(part_of(board=board, entry=entry, manifest=manifest, index=document))
    else:
        config = parse_config(await registry.small_blob(document.config, limit=MAX_CONFIG))
        if config.os == OS:
            parts.append(part_of(board=config.architecture, entry=describe(data, ""), manifest=document))
    if not parts:
        text = f"{digest} has no manifest with platform.os {OS}"
        raise Terminal(text, reason=PackageReason.NO_SUCH_BOARD)
    return Package(digest=digest, facts=Facts.read(said), sensors=sensors_of(said), parts=tuple(parts))


async def signatures(registry: Registry, digest: str) -> tuple[Signature, ...]:
    """The signatures of an index: under cosign's tag, and among its referrers.

    Raises:
        InvalidField: a signature manifest is none.
        Terminal: the registry refuses, or gives something else than it should.
        Retryable: the registry does not answer.
    """
    tagged = await registry.manifest_if_any(f"{fallback_tag(digest)}.sig")
    manifests = [] if tagged is None else [tagged]
    for referrer in await registry.referrers(digest):
        if referrer.artifact_type == ARTIFACT and len(manifests) < MAX_SIGNATURES:
            manifests.append(await registry.manifest(referrer.digest))
    layers = {(layer.digest, signature_of(layer)): layer for data in manifests for layer in manifest_of(data).layers}
    found = []
    for (_, value), layer in list(layers.items())[:MAX_SIGNATURES]:
        if value is not None:
            found.append(Signature(await registry.small_blob(layer, limit=MAX_PAYLOAD), value))
    return tuple(found)
