"""The image out of a layer: as it is, or in a tar as container builders make it."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from pathlib import PurePosixPath
from typing import Final

from crds.errors import InvalidField
from flash_controller.domain.manifests import MAX_IMAGE, TAR, TAR_GZIP
from flash_controller.reasons import PackageReason

FOLDER: Final = "firmware"


def unpack(layer: bytes, media_type: str) -> bytes:
    """The image of a layer; of a tar, its first file below a folder `firmware`, which Nubificus' tools take as well.

    Links are no files here: they may lead in circles.

    Raises:
        InvalidField: it cannot be unpacked, there is no such file, or it is larger than any firmware.
    """
    if media_type in TAR_GZIP:
        return _file(_gunzip(layer))
    if media_type in TAR:
        return _file(layer)
    if ".tar" in media_type or "+" in media_type:
        raise _invalid("mediaType", media_type, "an image as it is, a tar or a tar+gzip")
    return layer


def _gunzip(layer: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(layer)) as file:
            data = file.read(MAX_IMAGE + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _invalid("", f"{len(layer)} bytes", f"gzip ({error})") from error
    if len(data) > MAX_IMAGE:
        raise _invalid("", f"{len(layer)} bytes", f"at most {MAX_IMAGE} bytes when unpacked")
    return data


def _file(data: bytes) -> bytes:
    names = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                if FOLDER in PurePosixPath(member.name).parent.parts and member.isreg():
                    return _content(tar, member)
                names.append(member.name)
    except (tarfile.TarError, OSError, ValueError, KeyError, OverflowError) as error:
        raise _invalid("", f"{len(data)} bytes", f"a tar ({error})") from error
    raise _invalid("files", names[:8], f"a file below {FOLDER}/")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_IMAGE:  # a sparse file has holes that no byte of the tar stands for
        raise _invalid("files", f"{member.size} bytes", f"at most {MAX_IMAGE} bytes")
    file = tar.extractfile(member)
    return file.read() if file is not None else b""


def _invalid(field: str, value: object, expected: str) -> InvalidField:
    where = f"layer.{field}".rstrip(".")
    return InvalidField(field=where, value=value, expected=expected, reason=PackageReason.INVALID_IMAGE)
