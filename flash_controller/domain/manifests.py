"""OCI indexes and manifests, and Docker's, which are the same in other words (OCI image specification 1.1).

An index of firmware has a manifest a board, with `platform.os` custom and the board as `platform.architecture`, as the
Nubificus images do: stock tools resolve it. A manifest has one layer, the image itself or a tar with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeVar

import orjson
from pydantic import Field

from crds.boards import normalized
from crds.errors import InvalidField, Terminal
from crds.models.base import Model, validate
from crds.models.firmware import Digest
from flash_controller.reasons import PackageReason

INDEX: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
ACCEPTED: Final = (
    INDEX,
    MANIFEST,
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
ARTIFACT: Final = "application/vnd.fluidos.edge.firmware.v1"
"""artifactType of what we package."""
LAYER: Final = "application/vnd.fluidos.edge.firmware.image.v1"
"""The image as it is written."""
TAR_GZIP: Final = frozenset(
    {"application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.oci.image.layer.v1.tar+gzip"}
)
TAR: Final = frozenset({"application/vnd.oci.image.layer.v1.tar"})

OS: Final = "custom"
MAX_DOCUMENT: Final = 4 * 2**20
"""The most that the specification asks registries to take for a manifest."""
MAX_CONFIG: Final = 2**20
MAX_IMAGE: Final = 64 * 2**20

Annotations = dict[str, str]
M = TypeVar("M", bound=Model)


class Platform(Model):
    """For what a manifest of an index is."""

    os: str
    architecture: str


class Descriptor(Model):
    """What is pointed to: by digest, with its size."""

    media_type: Annotated[str, Field(max_length=255)]
    digest: Digest
    size: Annotated[int, Field(ge=0)]
    artifact_type: str | None = None
    platform: Platform | None = None
    annotations: Annotations | None = None


class Index(Model):
    """A list of manifests."""

    schema_version: Literal[2] = 2
    media_type: str | None = INDEX
    artifact_type: str | None = None
    manifests: Annotated[tuple[Descriptor, ...], Field(max_length=1024)]
    annotations: Annotations | None = None

    def boards(self) -> dict[str, Descriptor]:
        """The manifests that are for boards, by the boards' names.

        Raises:
            InvalidField: two are for the same board.
        """
        found: dict[str, Descriptor] = {}
        for descriptor in self.manifests:
            if descriptor.platform is not None and descriptor.platform.os == OS:
                board = descriptor.platform.architecture
                if any(normalized(board) == normalized(other) for other in found):
                    raise _invalid("index.manifests", board, "one manifest for each board")
                found[board] = descriptor
        return found

    def manifest_for(self, board: str) -> Descriptor:
        """The manifest of one board.

        Raises:
            Terminal: there is none for it.
        """
        boards = self.boards()
        for name, descriptor in boards.items():
            if normalized(name) == normalized(board):
                return descriptor
        there = ", ".join(boards) or "none"
        raise Terminal(
            f"the index has no image for board {board}, only for: {there}", reason=PackageReason.NO_SUCH_BOARD
        )


class Manifest(Model):
    """A configuration and layers."""

    schema_version: Literal[2] = 2
    media_type: str | None = MANIFEST
    artifact_type: str | None = None
    config: Descriptor
    layers: Annotated[tuple[Descriptor, ...], Field(max_length=128)]
    subject: Descriptor | None = None
    """What this says something about."""
    annotations: Annotations | None = None

    def image(self) -> Descriptor:
        """The layer with the image.

        Raises:
            InvalidField: there is not exactly one layer, or it is larger than any firmware.
        """
        if len(self.layers) != 1:
            raise _invalid("manifest.layers", len(self.layers), "one layer, with the image")
        (layer,) = self.layers
        if not 0 < layer.size <= MAX_IMAGE:
            raise _invalid("manifest.layers[0].size", layer.size, f"1 to {MAX_IMAGE} bytes")
        return layer


class Config(Model):
    """What an image's configuration says of its platform: the only place where a manifest without an index says it."""

    os: str = ""
    architecture: str = ""

    def check_board(self, board: str) -> None:
        """Compares its platform with a board.

        Raises:
            Terminal: it is for something else.
        """
        if (self.os, normalized(self.architecture)) != (OS, normalized(board)):
            text = f"the image is for {self.os}/{self.architecture}, expected {OS}/{board}"
            raise Terminal(text, reason=PackageReason.NO_SUCH_BOARD)


def parse(data: bytes) -> Index | Manifest:
    """Reads an index or a manifest. What it is, its content says, and not a header that the registry can change.

    Raises:
        InvalidField: it is neither, or could be taken for both (GHSA-77vh-xpmg-72qh).
    """
    document = as_json("manifest", data)
    match "manifests" in document, "layers" in document:
        case True, False:
            return _checked(Index, document, "index")
        case False, True:
            return _checked(Manifest, document, "manifest")
        case _:
            raise _invalid("manifest", sorted(document), "either manifests (an index) or layers (a manifest)")


def index_of(data: bytes) -> Index:
    """Reads an index, where no manifest may stand.

    Raises:
        InvalidField: it is no index.
    """
    document = parse(data)
    if isinstance(document, Manifest):
        raise _invalid("index", "a manifest", "an index")
    return document


def manifest_of(data: bytes) -> Manifest:
    """Reads a manifest, where no index may stand.

    Raises:
        InvalidField: it is no manifest.
    """
    document = parse(data)
    if isinstance(document, Index):
        raise _invalid("manifest", "an index", "a manifest")
    return document


def parse_config(data: bytes) -> Config:
    """Reads an image's configuration.

    Raises:
        InvalidField: it is no JSON object, or its platform no strings.
    """
    return _checked(Config, as_json("config", data), "config")


def serialized(document: Index | Manifest) -> bytes:
    """The bytes of a document, the same for the same content."""
    return orjson.dumps(document.dump(), option=orjson.OPT_SORT_KEYS)


def digest_of(data: bytes) -> str:
    """The digest by which a registry knows bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def check_digest(digest: str, data: bytes) -> None:
    """Compares what came with what was asked for.

    Raises:
        Terminal: it is something else.
    """
    if (found := digest_of(data)) != digest:
        raise Terminal(f"asked for {digest}, got {found}", reason=PackageReason.DIGEST_MISMATCH)


def describe(data: bytes, media_type: str) -> Descriptor:
    """The descriptor of bytes."""
    return Descriptor(media_type=media_type, digest=digest_of(data), size=len(data))


def as_json(field: str, data: bytes) -> Mapping[str, object]:
    """Reads a JSON object.

    Raises:
        InvalidField: it is none.
    """
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise _invalid(field, data[:40], f"JSON ({error})") from error
    if not isinstance(document, dict):
        raise _invalid(field, document, "a JSON object")
    return document


def _checked(model: type[M], document: Mapping[str, object], field: str) -> M:
    try:
        return validate(model, document, field=field)
    except InvalidField as error:
        raise _invalid(error.field, error.value, error.expected) from error


def _invalid(field: str, value: object, expected: str) -> InvalidField:
    return InvalidField(field=field, value=value, expected=expected, reason=PackageReason.INVALID_MANIFEST)
