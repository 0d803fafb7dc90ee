"""What an image, a layout or a package in a registry says, for people and for programs."""

from __future__ import annotations

from typing import Any

from flash_controller.domain.composition import Layout
from flash_controller.domain.images import Image
from flash_controller.domain.manifests import index_of, manifest_of
from flash_controller.domain.packages import Facts, Package, Part, part_of, sensors_of


def package_of(layout: Layout) -> Package:
    """What a registry would say of a layout.

    Raises:
        InvalidField: it is not the index of a package.
    """
    index = index_of(layout.blobs[layout.index.digest])
    parts = tuple(
        part_of(board=board, entry=entry, manifest=manifest_of(layout.blobs[entry.digest]), index=index)
        for board, entry in index.boards().items()
    )
    said = index.annotations or {}
    return Package(digest=layout.index.digest, facts=Facts.read(said), sensors=sensors_of(said), parts=parts)


def describe_package(package: Package, signed_by: str | None = None) -> dict[str, Any]:
    """All of a package as JSON, by the names that a Firmware's status has."""
    return _said(
        digest=package.digest,
        application=package.facts.application,
        version=package.facts.version,
        securityCounter=package.facts.security_counter,
        signedBy=signed_by,
        boards=[_part(part) for part in package.parts],
        sensors=[sensor.dump() for sensor in package.sensors],
    )


def describe_image(image: Image) -> dict[str, Any]:
    """What an image says of itself as JSON."""
    return _said(
        format=image.format,
        measurement=image.measurement,
        version=image.version,
        securityCounter=image.security_counter,
        application=image.application,
        chip=image.chip,
        vendorID=image.vendor_id and str(image.vendor_id),
        classID=image.class_id and str(image.class_id),
        signed=image.signed,
    )


def as_text(described: dict[str, Any]) -> str:
    """The same for people."""
    lines = []
    for key, value in described.items():
        if isinstance(value, list):
            lines += [f"{key}:", *(f"  - {_line(each)}" for each in value)]
        else:
            lines.append(f"{key}: {value}")
    return "\n".join(lines)


def _part(part: Part) -> dict[str, Any]:
    facts = part.facts
    return _said(
        board=part.board,
        format=facts.format,
        version=facts.version,
        securityCounter=facts.security_counter,
        measurement=facts.measurement,
        manifestDigest=part.manifest_digest,
        digest=part.blob.digest,
        sizeBytes=part.blob.size,
        mediaType=part.blob.media_type,
    )


def _said(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _line(value: dict[str, Any]) -> str:
    return ", ".join(f"{key} {each}" for key, each in value.items() if isinstance(each, str | int))
