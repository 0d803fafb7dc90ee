"""A package as a folder (OCI image layout 1.0.0), between the machine that builds and the one that may push."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from crds.errors import InvalidField
from flash_controller.domain.composition import REFERENCE, Layout
from flash_controller.domain.manifests import INDEX, Index, check_digest, index_of, parse, serialized

_MARK: Final = b'{"imageLayoutVersion":"1.0.0"}'


def save(layout: Layout, folder: Path) -> None:
    """Writes a layout; what the folder holds of another one stays, and is no part of this one.

    Raises:
        InvalidField: the folder cannot be written.
    """
    blobs = folder / "blobs" / "sha256"
    try:
        blobs.mkdir(parents=True, exist_ok=True)
        for digest, data in layout.blobs.items():
            _blob(folder, digest).write_bytes(data)
        (folder / "index.json").write_bytes(serialized(Index(manifests=(layout.index, *layout.referrers))))
        (folder / "oci-layout").write_bytes(_MARK)
    except OSError as error:
        raise InvalidField(field="layout", value=str(folder), expected=f"a folder to write ({error})") from error


def load(folder: Path) -> Layout:
    """Reads a layout of ours, and compares all of it with its digests.

    Raises:
        InvalidField: it is none.
        Terminal: something in it is not what its name says.
    """
    try:
        entries = index_of((folder / "index.json").read_bytes()).manifests
        unnamed = [each.digest for each in entries if (each.annotations or {}).get(REFERENCE) != each.digest]
        if not entries or entries[0].media_type != INDEX or unnamed:
            expected = "an index, and what refers to it, named by their digests"
            raise InvalidField(field="index.json", value=str(folder), expected=expected)
        entry, *referrers = entries
        held: dict[str, bytes] = {}
        _take(folder, held, entry.digest)
        for each in referrers:
            _take(folder, held, each.digest)
    except OSError as error:
        raise InvalidField(field="layout", value=str(folder), expected=f"an OCI image layout ({error})") from error
    return Layout(blobs=held, index=entry, referrers=tuple(referrers))


def _take(folder: Path, held: dict[str, bytes], digest: str) -> None:
    """A manifest, and all that is below it."""
    data = held[digest] = _read(folder, digest)
    document = parse(data)
    if isinstance(document, Index):
        for each in document.manifests:
            _take(folder, held, each.digest)
    else:
        for each in (document.config, *document.layers):
            held[each.digest] = _read(folder, each.digest)


def _read(folder: Path, digest: str) -> bytes:
    data = _blob(folder, digest).read_bytes()
    check_digest(digest, data)
    return data


def _blob(folder: Path, digest: str) -> Path:
    return folder / "blobs" / digest.replace(":", "/")
