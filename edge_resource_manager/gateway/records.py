"""Transactions and contracts: what the gateway writes itself and reads back from the watch.

An own write counts at once, so the echo of the watch may be older than what is held here: an older version never
replaces a newer one, and a life that was ended here does not come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

import structlog

from crds.errors import InvalidField
from crds.kube.client import Object
from crds.kube.watch import Change, Gone, Key, Put, key_of
from crds.models.base import Resource
from crds.models.fluidos import Contract, Transaction
from crds.models.repurposing import AGREED
from edge_resource_manager.domain.reservations import MANAGED_BY

log = structlog.get_logger(__name__)

R = TypeVar("R", Transaction, Contract)


class Records(Generic[R]):
    """Objects of one kind, by name, and by flavor and transaction.

    Args:
        kind: Transaction or Contract.
        place: the flavor that an object takes a place of, and for which transaction; None if it takes none.
    """

    def __init__(self, kind: type[R], *, place: Callable[[R], tuple[str, str] | None]) -> None:
        self._kind: type[R] = kind
        self._place: Callable[[R], tuple[str, str] | None] = place
        self._held: dict[Key, R] = {}
        self._by_name: dict[str, R] = {}
        self._by_flavor: dict[str, dict[str, R]] = {}
        self._ended: set[str | None] = set()  # uids
        self._agreed: set[Key] = set()

    def __len__(self) -> int:
        return len(self._held)

    def seen(self, change: Change) -> None:
        """Take what the watch reports."""
        match change:
            case Put(key, obj):
                try:
                    item = self._kind.parse(obj)
                except InvalidField as error:
                    log.warning("ignored", kind=self._kind.crd.kind, key=key, error=str(error))
                    self._drop(key)
                    return
                if item.metadata.uid in self._ended or _is_older(item, self._held.get(key)):
                    return
                self._put(key, item)
            case Gone(key, uid):
                # Several lives of a name may have ended and begun before the watch tells of the first end.
                held = self._held.get(key)
                if held is not None and held.metadata.uid == uid:
                    self._drop(key)
                self._ended.discard(uid)

    def wrote(self, obj: Object) -> R:
        """Take the API server's answer to an own write."""
        item: R = self._kind.parse(obj)
        self._put(key_of(obj), item)
        return item

    def assume(self, item: R) -> None:
        """Take what may have been stored; whatever the API server says of it is newer."""
        self._put(_key(item), item)

    def ended(self, item: R) -> None:
        """An own delete was answered. The watch will say so too; until then this life stays ended."""
        key = _key(item)
        if key in self._held:
            self._ended.add(item.metadata.uid)
        self._drop(key)

    def get(self, name: str) -> R | None:
        """The gateway's own object of that name: its names cannot be guessed, others' can."""
        item = self._by_name.get(name)
        return item if item is not None and is_ours(item) else None

    def of_flavor(self, flavor_id: str) -> Mapping[str, R]:
        """All that take a place of a flavor, by transaction ID."""
        return self._by_flavor.get(flavor_id, {})

    def flavors(self) -> Iterator[str]:
        """The flavors that anything takes a place of."""
        yield from self._by_flavor

    def ours(self) -> Iterator[R]:
        """All objects that the gateway made."""
        return (item for item in self._held.values() if is_ours(item))

    def agreed(self) -> Iterator[R]:
        """Those of them whose device is not yet what was sold."""
        return (self._held[key] for key in self._agreed)

    def _put(self, key: Key, item: R) -> None:
        self._drop(key)
        place = self._place(item)
        if place is None:
            return
        self._held[key] = item
        if is_ours(item) and AGREED in item.metadata.annotations:
            self._agreed.add(key)
        self._by_name[item.metadata.name] = item
        flavor, transaction = place
        self._by_flavor.setdefault(flavor, {})[transaction] = item

    def _drop(self, key: Key) -> None:
        self._agreed.discard(key)
        item = self._held.pop(key, None)
        place = self._place(item) if item is not None else None
        if item is None or place is None:
            return
        self._by_name.pop(item.metadata.name, None)
        flavor, transaction = place
        places = self._by_flavor[flavor]
        places.pop(transaction, None)
        if not places:
            del self._by_flavor[flavor]


def is_ours(item: Resource) -> bool:
    """Whether the gateway made it."""
    return MANAGED_BY.items() <= item.metadata.labels.items()


def _key(item: Transaction | Contract) -> Key:
    return item.metadata.namespace or "", item.metadata.name


def _is_older(item: R, held: R | None) -> bool:
    """Versions are numbers that can be compared: promised since Kubernetes 1.35, so with etcd ever since."""
    if held is None:
        return False
    return int(item.metadata.resource_version or 0) < int(held.metadata.resource_version or 0)
