"""Request bodies. Lanes that send the same readings in the same form share one that is compressed."""

from __future__ import annotations

import asyncio
import gzip
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import zstandard

from crds.models.delivery import Compression, Encoding
from router_manager.domain.encoding import framed

CONTENT_ENCODINGS = {"Gzip": "gzip", "Zstd": "zstd"}
_GZIP_LEVEL = 4
_ZSTD_LEVEL = 3
_THREAD_BYTES = 32 << 10
"""What takes the loop less than half a millisecond is compressed in it."""
_MAX_SHARED = 8


@dataclass(frozen=True, slots=True)
class _Shared:
    """A body on its way to be one, and what it is made of: as long as that is held, its ids are of nothing else."""

    parts: Sequence[bytes]
    body: asyncio.Task[bytes]


class Bodies:
    """Makes bodies, and remembers the last compressed ones."""

    def __init__(self) -> None:
        self._shared: OrderedDict[tuple[Encoding, Compression, tuple[int, ...]], _Shared] = OrderedDict()

    async def make(self, parts: Sequence[bytes], *, encoding: Encoding, compression: Compression) -> bytes:
        """One body.

        Args:
            parts: of each record, what is sent.
            encoding: what stands between them.
            compression: of the whole.
        """
        if compression == "None":
            return framed(parts, encoding)
        # Two payloads are the same here only if they are one object: writers and records see to that.
        key = encoding, compression, tuple(map(id, parts))
        shared = self._shared.get(key)
        if shared is None:
            task = asyncio.create_task(_compressed(framed(parts, encoding), compression))
            shared = self._shared[key] = _Shared(parts, task)
            if len(self._shared) > _MAX_SHARED:
                self._shared.popitem(last=False)
        # A lane that ends must not take the body from the others.
        return await asyncio.shield(shared.body)


async def _compressed(body: bytes, compression: Compression) -> bytes:
    if len(body) < _THREAD_BYTES:
        return compress(body, compression)
    return await asyncio.to_thread(compress, body, compression)


def compress(body: bytes, compression: Compression) -> bytes:
    """As HTTP names them: gzip (RFC 1952) and zstd (RFC 8878)."""
    match compression:
        case "None":
            return body
        case "Gzip":
            return gzip.compress(body, _GZIP_LEVEL, mtime=0)
        case "Zstd":
            return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body)
