"""Pulls the one image that a board needs: an index, a manifest, a blob, and nothing twice.

The digest of the index is what was verified; everything is compared with what stands above it, down to the image, which
must measure as the index says.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import BinaryIO, Final, TypeVar

from crds.errors import Retryable, Terminal
from crds.kube.queue import backoff
from flash_controller.domain.images import Image, read_image
from flash_controller.domain.layers import unpack
from flash_controller.domain.manifests import MAX_CONFIG, Descriptor, Index, describe, manifest_of, parse, parse_config
from flash_controller.domain.packages import Part, part_of
from flash_controller.oci.cache import Cache
from flash_controller.oci.registry import Registry
from flash_controller.reasons import PackageReason

LIMIT_SECONDS: Final = 300.0
TRIES: Final = 5
MAX_PAUSE: Final = 10.0
"""A registry that wants us to wait longer is asked again by the next attempt of the caller."""

Progress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """An image and what is known of it.

    Attributes:
        data: the image, as it is written.
        image: what it says of itself.
        part: what the index says of it.
    """

    data: bytes
    image: Image
    part: Part


async def pull(
    registry: Registry,
    *,
    digest: str,
    board: str,
    cache: Cache,
    progress: Progress = lambda _done, _total: None,
    limit_seconds: float = LIMIT_SECONDS,
) -> Pulled:
    """The image of a board.

    Args:
        registry: the repository, open.
        digest: of the index.
        board: by name.
        cache: where it may be already, and is kept.
        progress: called with the bytes that are there and all bytes of the blob.
        limit_seconds: for all of it.

    Raises:
        Retryable: the registry is away, busy or slow, or the cache's disk is full; the next call goes on from the bytes
            that are there.
        Terminal: it has no such index or board, or something else than the digest says.
    """
    try:
        async with asyncio.timeout(limit_seconds):
            part = await _patiently(lambda: _find_part(registry, digest=digest, board=board, cache=cache))
            blob = await _patiently(lambda: _blob(registry, part.blob, cache=cache, progress=progress))
    except TimeoutError as error:
        raise Retryable(f"the image was not pulled within {limit_seconds:g} s") from error
    except OSError as error:
        raise Retryable(f"the cache of images: {error}") from error
    data = unpack(blob, part.blob.media_type)
    image = read_image(data)
    part.facts.check(image)
    return Pulled(data=data, image=image, part=part)


async def _find_part(registry: Registry, *, digest: str, board: str, cache: Cache) -> Part:
    data = await _document(registry, digest, cache)
    document = parse(data)
    if isinstance(document, Index):
        entry = document.manifest_for(board)
        manifest = manifest_of(await _document(registry, entry.digest, cache))
        return part_of(board=board, entry=entry, manifest=manifest, index=document)
    config = parse_config(await registry.small_blob(document.config, limit=MAX_CONFIG))
    config.check_board(board)
    return part_of(board=board, entry=describe(data, ""), manifest=document)


async def _document(registry: Registry, digest: str, cache: Cache) -> bytes:
    async def fill(file: BinaryIO) -> None:
        data = await registry.manifest(digest)
        file.truncate(0)
        file.write(data)

    return _as_asked(digest, await cache.get(digest, fill))


async def _blob(registry: Registry, blob: Descriptor, *, cache: Cache, progress: Progress) -> bytes:
    torn = False

    async def fill(file: BinaryIO) -> None:
        nonlocal torn
        have = file.seek(0, os.SEEK_END)
        torn = have > 0
        async with registry.blob(blob.digest, offset=have if have < blob.size else 0) as (start, chunks):
            file.truncate(start)
            have = start
            async for chunk in chunks:
                have += len(chunk)
                if have > blob.size:
                    break
                file.write(chunk)
                progress(have, blob.size)
        if have < blob.size:
            raise Retryable(f"the registry gave {have} of {blob.size} bytes of {blob.digest}")

    found = await cache.get(blob.digest, fill)
    if found is None and torn:
        raise Retryable(f"what was there of {blob.digest} was something else")
    progress(blob.size, blob.size)
    return _as_asked(blob.digest, found)


def _as_asked(digest: str, found: bytes | None) -> bytes:
    if found is None:
        raise Terminal(f"the registry gave something else for {digest}", reason=PackageReason.DIGEST_MISMATCH)
    return found


async def _patiently(step: Callable[[], Awaitable[T]]) -> T:
    for attempt in range(1, TRIES):
        try:
            return await step()
        except Retryable as error:
            pause = backoff(attempt) if error.after is None else error.after
            if pause > MAX_PAUSE:
                raise
            await asyncio.sleep(pause)
    return await step()
