"""An index of what was built: every image is read, held to its recipe and measured. The same input, the same digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from crds.errors import InvalidField
from flash_controller.domain import manifests
from flash_controller.domain.images import Image, read_image
from flash_controller.domain.manifests import Descriptor, Index, Manifest, Platform, describe, serialized
from flash_controller.domain.packages import PREFIX, SENSORS, STANDARD_VERSION, TITLE, Facts, Sensors
from flash_controller.domain.recipe import Recipe
from flash_controller.domain.versions import Version

CYCLONE_DX: Final = "application/vnd.cyclonedx+json"
SPDX: Final = "application/spdx+json"
REFERENCE: Final = "org.opencontainers.image.ref.name"
EMPTY: Final = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Content by digest.

    Attributes:
        blobs: all of it, manifests as well.
        index: what is pushed under a tag.
        referrers: manifests that say something about the index or a part of it. These and the index have their digests
            as names, by which tools find them in a folder.
    """

    blobs: Mapping[str, bytes]
    index: Descriptor
    referrers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Built:
    """What a board's build left.

    Attributes:
        title: name of the image's file.
        data: the image.
        sbom: what is in it; None where the build does not say.
    """

    title: str
    data: bytes
    sbom: bytes | None = None


def compose(recipe: Recipe, built: Mapping[str, Built]) -> Layout:
    """An index with a manifest for each board, and bills of materials as referrers.

    Args:
        recipe: what was to be built.
        built: what was, by board.

    Raises:
        InvalidField: an image is damaged, for another board or of another version than the recipe says.
    """
    images = {board: read_image(each.data) for board, each in built.items()}
    for board, image in images.items():
        _check(recipe, board, image)
    whole = Facts(
        application=recipe.application,
        version=_version(recipe, {image.version for image in images.values()}),
        security_counter=_counter(recipe, {image.security_counter for image in images.values()}),
    )
    blobs = _Blobs()
    index = _index(recipe, whole, tuple(_part(blobs, board, whole, built[board], images[board]) for board in built))
    entry = _named(blobs.add(serialized(index), manifests.INDEX))
    referrers = [_bill(blobs, entry, _own_bill(whole, built))]
    for manifest, each in zip(index.manifests, built.values(), strict=True):
        if each.sbom is not None:
            referrers.append(_bill(blobs, manifest, each.sbom))
    return Layout(blobs=blobs.held, index=entry, referrers=tuple(referrers))


class _Blobs:
    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def add(self, data: bytes, media_type: str) -> Descriptor:
        found = describe(data, media_type)
        self.held[found.digest] = data
        return found


def _check(recipe: Recipe, board: str, image: Image) -> None:
    where = f"boards[{board}].image"
    if not image.fits(board):
        made_for = image.chip or f"the board of class {image.class_id}"
        raise InvalidField(field=where, value=made_for, expected=f"an image for {board}")
    counter = recipe.security_counter
    if None not in (counter, image.security_counter) and counter != image.security_counter:
        raise InvalidField(field=f"{where}.securityCounter", value=image.security_counter, expected=str(counter))
    if recipe.version is not None and image.version is not None and not _agree(image.version, recipe.version):
        raise InvalidField(field=f"{where}.version", value=image.version, expected=recipe.version)


def _agree(stated: str, wanted: str) -> bool:
    """Headers have numbers alone: they cannot say more than the release of 1.2.3-rc.1+5e1f."""
    if stated == wanted:
        return True
    try:
        header, recipe = Version.parse(stated), Version.parse(wanted)
    except InvalidField:
        return False
    return header.core == recipe.core and header.build in ("", recipe.build)


def _version(recipe: Recipe, stated: set[str | None]) -> str:
    found = recipe.version or (stated.pop() if len(stated) == 1 else None)
    if found is None:
        expected = f"a value, for the images say {', '.join(sorted(filter(None, stated))) or 'nothing'}"
        raise InvalidField(field="version", value=None, expected=expected)
    return found


def _counter(recipe: Recipe, stated: set[int | None]) -> int | None:
    if recipe.security_counter is None and len(stated) == 1:
        return stated.pop()
    return recipe.security_counter


def _index(recipe: Recipe, whole: Facts, parts: tuple[Descriptor, ...]) -> Index:
    own = [key for key in recipe.annotations if key.startswith(PREFIX)]
    if own:
        raise InvalidField(field="annotations", value=own, expected=f"keys that do not begin with {PREFIX}")
    said = {
        **recipe.annotations,
        **whole.annotations(),
        TITLE: recipe.application,
        STANDARD_VERSION: str(whole.version),
    }
    if recipe.sensors:
        said[SENSORS] = Sensors(recipe.sensors).text()
    index = Index(artifact_type=manifests.ARTIFACT, manifests=parts, annotations=said)
    index.boards()
    return index


def _part(blobs: _Blobs, board: str, whole: Facts, built: Built, image: Image) -> Descriptor:
    counter = whole.security_counter if image.security_counter is None else image.security_counter
    facts = Facts(
        application=whole.application,
        version=whole.version,
        security_counter=counter,
        format=image.format,
        measurement=image.measurement,
    )
    layer = blobs.add(built.data, manifests.LAYER).model_copy(update={"annotations": {TITLE: built.title}})
    platform = Platform(os=manifests.OS, architecture=board)
    # An image's configuration, for tools that ask a manifest alone for its platform.
    rootfs = {"type": "layers", "diff_ids": [layer.digest]}
    config = blobs.add(_json({**platform.dump(), "config": {}, "rootfs": rootfs}), manifests.CONFIG)
    manifest = Manifest(
        artifact_type=manifests.ARTIFACT, config=config, layers=(layer,), annotations=facts.annotations()
    )
    found = blobs.add(serialized(manifest), manifests.MANIFEST)
    return found.model_copy(update={"platform": platform, "annotations": facts.annotations()})


def _own_bill(whole: Facts, built: Mapping[str, Built]) -> bytes:
    """CycloneDX 1.6 of the images as they are; what is in them, their builds alone can say."""
    component = {"type": "firmware", "name": whole.application, "version": whole.version}
    parts = [
        {
            **component,
            "bom-ref": board,
            "name": f"{whole.application}/{board}",
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(each.data).hexdigest()}],
            "properties": [{"name": TITLE, "value": each.title}],
        }
        for board, each in built.items()
    ]
    metadata = {"component": {**component, "bom-ref": "firmware"}}
    bill = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": metadata, "components": parts}
    return _json(bill)


def _bill(blobs: _Blobs, subject: Descriptor, bill: bytes) -> Descriptor:
    document = manifests.as_json("sbom", bill)
    kind = CYCLONE_DX if "bomFormat" in document else SPDX
    if kind == SPDX and "spdxVersion" not in document:
        raise InvalidField(field="sbom", value=sorted(document)[:8], expected="CycloneDX or SPDX in JSON")
    manifest = Manifest(
        artifact_type=kind,
        config=blobs.add(b"{}", EMPTY),
        layers=(blobs.add(bill, kind),),
        subject=Descriptor(media_type=subject.media_type, digest=subject.digest, size=subject.size),
    )
    return _named(blobs.add(serialized(manifest), manifests.MANIFEST).model_copy(update={"artifact_type": kind}))


def _named(root: Descriptor) -> Descriptor:
    return root.model_copy(update={"annotations": {REFERENCE: root.digest}})


def _json(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
