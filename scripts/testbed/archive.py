"""Programs from an archive in the form of envtest's releases: a tar.gz that holds them in some folder.

Nothing of an archive is unpacked before its SHA-512 is the one that was asked for.
"""

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from pathlib import Path
from typing import IO, Final

from scripts.testbed.console import progress
from scripts.testbed.errors import BinaryError

SILENCE_LIMIT_SECONDS: Final = 5.0
TOTAL_LIMIT_SECONDS: Final = 600.0
SIZE_LIMIT_BYTES: Final = 1 << 30
CHUNK_BYTES: Final = 1 << 20


class ArchiveError(BinaryError):
    """The archive cannot be had, or is not the one that was asked for."""


def fetch(url: str, *, sha512: str, cache: Path, wanted: Collection[str]) -> Path:
    """Downloads an archive, unless the cache has it, and returns the folder with those of its files that are wanted.

    Args:
        url: http, https or file.
        sha512: The digest of the archive, in hex.
        cache: Where it goes: `bin/archive-<start of the digest>`.
        wanted: Names of the files.

    Raises:
        ArchiveError: It cannot be reached (5 s), is too slow (10 min) or too large (1 GiB); the digest is missing or
            another; it is no tar.gz or holds nothing that is wanted.
    """
    if len(sha512) != hashlib.sha512().digest_size * 2:
        raise ArchiveError(f"{url}: FLUIDOS_EDGE_ENVTEST_SHA512 must hold its SHA-512 as 128 hex digits")
    folder = cache / "bin" / f"archive-{sha512[:16].lower()}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as scratch:
        archive, draft = Path(scratch) / "archive", Path(scratch) / "files"
        with progress(f"downloading {url}", expected="under a minute"), archive.open("wb") as file:
            found = _download(url, file)
        if found != sha512.lower():
            raise ArchiveError(f"{url}: SHA-512 is {found}, expected {sha512.lower()}")
        draft.mkdir()
        _unpack(archive, draft, wanted=wanted, url=url)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # another run was first
                raise
    return folder


def _download(url: str, file: IO[bytes]) -> str:
    deadline = time.monotonic() + TOTAL_LIMIT_SECONDS
    digest = hashlib.sha512()
    size = 0
    try:
        with urllib.request.urlopen(url, timeout=SILENCE_LIMIT_SECONDS) as answer:  # noqa: S310 - the user names the URL
            while chunk := answer.read(CHUNK_BYTES):
                size += len(chunk)
                if size > SIZE_LIMIT_BYTES:
                    raise ArchiveError(f"{url}: larger than {SIZE_LIMIT_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise ArchiveError(f"{url}: not complete after {TOTAL_LIMIT_SECONDS:g} s")
                digest.update(chunk)
                file.write(chunk)
    except (OSError, ValueError, http.client.HTTPException, urllib.error.URLError) as error:
        raise ArchiveError(f"{url}: {error}") from error
    return digest.hexdigest()


def _unpack(archive: Path, folder: Path, *, wanted: Collection[str], url: str) -> None:
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = Path(member.name).name  # no path of the archive's choice
                if member.isfile() and name in wanted and (content := tar.extractfile(member)):
                    with (folder / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
                    (folder / name).chmod(0o755)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ArchiveError(f"{url}: {error}") from error
    if not any(os.scandir(folder)):
        raise ArchiveError(f"{url}: holds none of {', '.join(wanted)}")
