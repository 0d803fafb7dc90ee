"""Following a kind: list, then watch from there, and again when the server ends it.

Used by the processes that only observe (gateway, relay). Managers watch with kopf.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp
import orjson
import structlog

from crds.errors import Retryable, Terminal
from crds.kube.client import Expired, Kind, Kube, NotFound, Object

log = structlog.get_logger(__name__)

Key = tuple[str, str]
"""namespace (empty for cluster-scoped kinds), name."""

WATCH_SECONDS = 300
MAX_BACKOFF = 10.0


@dataclass(frozen=True, slots=True)
class Put:
    """The object is there, new or changed."""

    key: Key
    obj: Object


@dataclass(frozen=True, slots=True)
class Gone:
    """The object is no longer there. `uid` is that of the life that ended, where the watcher knows it."""

    key: Key
    uid: str | None = None


Change = Put | Gone


def key_of(obj: Mapping[str, object]) -> Key:
    """Namespace and name of an object."""
    meta = obj["metadata"]
    assert isinstance(meta, Mapping)  # noqa: S101 - the API server never sends an object without metadata
    return str(meta.get("namespace") or ""), str(meta["name"])


async def follow(
    kube: Kube,
    kind: Kind,
    *,
    changed: Callable[[Change], None],
    synced: asyncio.Event,
    namespace: str | None = None,
    query: Mapping[str, str] | None = None,
) -> None:
    """Call `changed` for every difference, for ever; `synced` is set after the first complete list.

    What disappeared while the watch was down is reported as Gone at the next list. A kind whose CRD is not installed
    counts as empty and is asked for again.
    """
    path = kind.path(namespace=namespace)
    known: dict[Key, str] = {}
    backoff = 0.2
    while True:
        try:
            version = await _list(kube, path, known=known, changed=changed, query=query or {})
            synced.set()
            backoff = 0.2
            while True:
                version = await _watch(kube, path, version=version, known=known, changed=changed, query=query or {})
        except Expired:
            continue
        except NotFound:
            synced.set()
            backoff = MAX_BACKOFF / 2
        except (Retryable, Terminal, aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("watch interrupted", path=path, error=str(error), retry_in=round(backoff, 1))
        await asyncio.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
        backoff = min(backoff * 2, MAX_BACKOFF)


async def _list(
    kube: Kube, path: str, *, known: dict[Key, str], changed: Callable[[Change], None], query: Mapping[str, str]
) -> str:
    answer = await kube.request("GET", path, query=query)
    present = {key_of(item): item for item in answer["items"]}
    for key in known - present.keys():
        changed(Gone(key, known[key]))
    for key, item in present.items():
        changed(Put(key, item))
    known.clear()
    known.update({key: item["metadata"]["uid"] for key, item in present.items()})
    return str(answer["metadata"]["resourceVersion"])


async def _watch(
    kube: Kube,
    path: str,
    *,
    version: str,
    known: dict[Key, str],
    changed: Callable[[Change], None],
    query: Mapping[str, str],
) -> str:
    """One watch request; the version to go on from."""
    asked = {
        **query,
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": version,
        "timeoutSeconds": str(WATCH_SECONDS),
    }
    async with kube.stream(path, query=asked, seconds=WATCH_SECONDS + 15) as lines:
        async for line in _lines(lines):
            event = orjson.loads(line)
            obj: Object = event["object"]
            match event["type"]:
                case "ADDED" | "MODIFIED":
                    known[key_of(obj)] = obj["metadata"]["uid"]
                    changed(Put(key_of(obj), obj))
                case "DELETED":
                    known.pop(key_of(obj), None)
                    changed(Gone(key_of(obj), obj["metadata"]["uid"]))
                case "ERROR":
                    # A Status; 410 means that the version fell out of the server's window.
                    raise Expired(str(obj.get("message")), status=int(obj.get("code", 410)), reason="Expired")
            version = str(obj["metadata"]["resourceVersion"])
    return version


async def _lines(stream: aiohttp.StreamReader):  # type: ignore[no-untyped-def]  # an async generator of bytes
    while line := await stream.readline():
        if line.strip():
            yield line
