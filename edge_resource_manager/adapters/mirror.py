"""Objects that this manager writes whole: what the API server holds of them, and how it is made what it should be.

Only what is compared is kept (the specification and the owners, packed), so that thousands of objects cost kilobytes.
A change is a merge patch of the difference, not a server-side apply: apply leaves alone what another manager added or
what our own create set (an entry of a list, a member of free `typeData`), but these objects are to hold what we say and
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from crds.kube.client import AlreadyExists, Conflict, Kind, Kube, NotFound, Object, Unavailable
from crds.kube.watch import Change, Gone, Key, Put, key_of
from crds.models.base import Resource

Owner = tuple[str, str]
"""Kind and name, in the namespace of what is owned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the API server holds of one object; specification and status as JSON."""

    uid: str
    version: int
    generation: int | None
    owners: tuple[Owner, ...]
    shape: bytes
    status: bytes

    def same(self, other: Held) -> bool:
        """Whether both say the same, whatever their versions."""
        return (self.uid, self.shape, self.status) == (other.uid, other.shape, other.status)

    @property
    def spec(self) -> Object:
        """The specification."""
        spec: Object = orjson.loads(self.shape)["spec"]
        return spec


class Mirror:
    """All objects of one kind, fed by a watch and by the answers to our own writes.

    Args:
        kube: the API server.
        kind: the model of the kind.
        manager: the field manager that writes are made as.
    """

    def __init__(self, kube: Kube, kind: type[Resource], *, manager: str) -> None:
        self._kube = kube
        self._kind = kind
        self._manager = manager
        self._held: dict[Key, Held] = {}
        self._owned: dict[tuple[str, Owner], set[Key]] = {}
        self._writing: set[Key] = set()

    def get(self, key: Key) -> Held | None:
        """What is held under this name."""
        return self._held.get(key)

    def owned_by(self, owner: Owner, *, namespace: str) -> frozenset[Key]:
        """The objects that name this owner."""
        return frozenset(self._owned.get((namespace, owner), ()))

    def seen(self, change: Change) -> bool:
        """Take in what a watch says; False where it is known, or older, or told while we write the object ourselves."""
        match change:
            case Gone(key):
                return self._drop(key)
            case Put(key, obj):
                before, held = self._held.get(key), _held(obj)
                # Versions of one cluster grow: a watch may still tell of the past when our own write was answered.
                if before is not None and held.version <= before.version:
                    return False
                self._drop(key)
                self._held[key] = held
                for owner in held.owners:
                    self._owned.setdefault((key[0], owner), set()).add(key)
                return key not in self._writing and (before is None or not before.same(held))

    async def load(self) -> list[Object]:
        """List them all, before the watch does.

        Raises:
            Unavailable: the API server is away.
        """
        try:
            answer = await self._kube.request("GET", Kind.of(self._kind.crd).path())
        except NotFound:  # the CRD comes later
            return []
        items: list[Object] = answer["items"]
        for item in items:
            self.seen(Put(key_of(item), item))
        return items

    async def ensure(self, wanted: Resource) -> Held:
        """Make the object what it should be, with at most one write, and none where it is.

        Raises:
            Refused: the API server does not want it so.
            Unavailable: it is away, or the object came or went meanwhile.
        """
        key = (wanted.metadata.namespace or "", wanted.metadata.name)
        manifest = wanted.manifest()
        shape = _shape(manifest)
        held = self._held.get(key)
        if held is None:
            with self._written(key):
                held = self._store(key, await self._create(key, manifest))
        if held.shape == shape:
            return held
        patch = merge_patch(orjson.loads(held.shape), orjson.loads(shape))
        meta = {"ownerReferences": patch.pop("ownerReferences")} if "ownerReferences" in patch else {}
        body = {"metadata": {**meta, "uid": held.uid}, **patch}  # another life of the name is a conflict
        with self._written(key):
            try:
                answer = await self._kube.patch(self._kind, key[1], namespace=key[0], body=body, manager=self._manager)
            except (NotFound, Conflict) as error:
                raise self._went_away(key) from error
            return self._store(key, answer)

    async def write_status(self, key: Key, status: Object) -> None:
        """Apply the status that is ours.

        Raises:
            Refused: the API server does not want it so.
            Unavailable: it is away, or the object went meanwhile.
        """
        with self._written(key):
            try:
                answer = await self._kube.apply_status(
                    self._kind, name=key[1], namespace=key[0], status=status, manager=self._manager
                )
            except NotFound as error:
                raise self._went_away(key) from error
            self._store(key, answer)

    async def remove(self, key: Key) -> None:
        """Delete the life of the name that is known.

        Raises:
            Refused: the API server does not let us.
            Unavailable: it is away.
        """
        held = self._held.get(key)
        if held is not None:
            await self._kube.delete(self._kind, key[1], namespace=key[0], uid=held.uid)
            self._drop(key)

    async def _create(self, key: Key, manifest: Object) -> Object:
        path = Kind.of(self._kind.crd).path(namespace=key[0])
        try:
            return await self._kube.request("POST", path, query={"fieldManager": self._manager}, body=manifest)
        except AlreadyExists as error:
            raise Unavailable(f"{self._kind.crd.kind} {'/'.join(key)} is there, and not yet seen") from error

    @contextmanager
    def _written(self, key: Key) -> Iterator[None]:
        """While we write, what the watch says is most likely our own words, before the answer brings them."""
        self._writing.add(key)
        try:
            yield
        finally:
            self._writing.discard(key)

    def _store(self, key: Key, answer: Object) -> Held:
        """Keep an answer.

        Raises:
            Unavailable: the watch already told of something newer and different, so another look is due.
        """
        self.seen(Put(key, answer))
        held = self._held[key]
        if not held.same(_held(answer)):
            raise Unavailable(f"{self._kind.crd.kind} {'/'.join(key)} was changed meanwhile", after=0.0)
        return held

    def _drop(self, key: Key) -> bool:
        held = self._held.pop(key, None)
        for owner in held.owners if held else ():
            owned = self._owned[key[0], owner]
            owned.discard(key)
            if not owned:
                del self._owned[key[0], owner]
        return held is not None

    def _went_away(self, key: Key) -> Unavailable:
        self._drop(key)
        return Unavailable(f"{self._kind.crd.kind} {'/'.join(key)} went away", after=0.0)


def merge_patch(held: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The RFC 7386 patch that makes `wanted` of `held`; neither may hold null."""
    patch: dict[str, Any] = dict.fromkeys(held.keys() - wanted.keys())
    for key, value in wanted.items():
        before = held.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            if inner := merge_patch(before, value):
                patch[key] = inner
        elif value != before:
            patch[key] = value
    return patch


def _held(obj: Object) -> Held:
    meta = obj["metadata"]
    return Held(
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        generation=meta.get("generation"),
        owners=tuple({(owner["kind"], owner["name"]): None for owner in meta.get("ownerReferences", ())}),
        shape=_shape(obj),
        status=_packed(obj.get("status", {})),
    )


def _shape(obj: Object) -> bytes:
    """What is compared: the same bytes for the same content."""
    owners = obj["metadata"].get("ownerReferences", [])
    return _packed({"ownerReferences": owners, "spec": obj.get("spec", {})})


def _packed(value: Object) -> bytes:
    """Copied, because the bytes that orjson returns keep its whole buffer: ten times as much."""
    return bytes(memoryview(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)))
