"""One repository of a registry: what it holds, read and written by digest.

What is read by digest is compared with it here. Registries of before 1.1 know no referrers; they keep them in an index
under a tag of the subject's digest, which everybody who attaches something brings up to date.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from yarl import URL

from crds.errors import Retryable, Terminal
from crds.models.base import Model, validate
from flash_controller.domain.manifests import (
    ACCEPTED,
    MAX_DOCUMENT,
    Descriptor,
    Index,
    as_json,
    check_digest,
    digest_of,
    parse,
)
from flash_controller.oci.transport import CHUNK, Transport, read
from flash_controller.reasons import PackageReason

MAX_TAGS: Final = 10_000
_DIGEST: Final = re.compile("sha256:[0-9a-f]{64}")
_ACCEPT: Final = {"Accept": ", ".join(ACCEPTED)}


class _Tags(Model):
    tags: tuple[str, ...] | None = None


class Registry(Transport):
    """One repository, open within its `async with` block. All methods raise as `Transport.request` does."""

    async def manifest(self, reference: str) -> bytes:
        """An index or a manifest by tag or digest.

        Raises:
            Terminal: its digest is another one.
        """
        async with self.request("GET", f"manifests/{reference}", headers=_ACCEPT) as answer:
            data = await read(answer, MAX_DOCUMENT)
        if ":" in reference:
            check_digest(reference, data)
        return data

    async def digest(self, tag: str) -> str:
        """What a tag points to now."""
        async with self.request("HEAD", f"manifests/{tag}", headers=_ACCEPT) as answer:
            stated = answer.headers.get("Docker-Content-Digest", "")
        return stated if _DIGEST.fullmatch(stated) else digest_of(await self.manifest(tag))

    async def tags(self) -> list[str]:
        """All tags, up to MAX_TAGS."""
        tags: list[str] = []
        target: str | URL = "tags/list?n=1000"
        while len(tags) < MAX_TAGS:
            async with self.request("GET", target) as answer:
                page = validate(_Tags, as_json("tags", await read(answer, MAX_DOCUMENT)))
                following = self.following(answer)
            tags += page.tags or ()
            if following is None or not page.tags:
                break
            target = following
        return tags

    @asynccontextmanager
    async def blob(self, digest: str, *, offset: int = 0) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """A blob from an offset on, as where it really begins and its bytes: not every registry knows ranges."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self.request("GET", f"blobs/{digest}", headers=headers, expected=(200, 206)) as answer:
            start = offset if answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-") else 0
            if answer.status == 206 and start != offset:
                raise Retryable(
                    f"{answer.url.path}: asked from byte {offset}, got {answer.headers.get('Content-Range')}"
                )
            yield start, answer.content.iter_chunked(CHUNK)

    async def small_blob(self, descriptor: Descriptor, *, limit: int) -> bytes:
        """A blob that fits into memory.

        Raises:
            Terminal: it is larger than the limit, or its digest is another one.
        """
        async with self.request("GET", f"blobs/{descriptor.digest}") as answer:
            data = await read(answer, min(limit, descriptor.size))
        check_digest(descriptor.digest, data)
        return data

    async def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """The manifests that say something about a digest."""
        async with self.request("GET", f"referrers/{digest}", expected=(200, 404)) as answer:
            data = await read(answer, MAX_DOCUMENT) if answer.status == 200 else None
        if data is None:
            data = await self.manifest_if_any(fallback_tag(digest))
        found = parse(data) if data is not None else None
        return found.manifests if isinstance(found, Index) else ()

    async def manifest_if_any(self, reference: str) -> bytes | None:
        """As `manifest`; None where there is none."""
        try:
            return await self.manifest(reference)
        except Terminal as refusal:
            if refusal.reason != PackageReason.NOT_FOUND:
                raise
            return None

    async def put_manifest(self, data: bytes, *, media_type: str, tag: str | None = None) -> Mapping[str, str]:
        """Uploads an index or manifest, by digest or under a tag as well; gives the answer's headers."""
        target = f"manifests/{tag or digest_of(data)}"
        headers = {"Content-Type": media_type}
        async with self.request("PUT", target, expected=(201,), headers=headers, data=data) as answer:
            return answer.headers


def fallback_tag(digest: str) -> str:
    """The tag of a digest's referrers, where the registry does not list them itself."""
    return digest.replace(":", "-")
