"""Batches that need no relay: what a pump would hand to an exit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from crds.models.delivery import Endpoint
from router_manager.domain.encoding import carrier_of, write
from router_manager.domain.payload import Record
from router_manager.domain.table import Way, ways
from router_manager.relay.targets.base import Batch
from tests.relay.support import record, route, table


def way_to(target: Endpoint, *, topics: Sequence[str] = ("a/b",), trust_domain: str | None = None) -> Way:
    (way,) = ways(table(route(target, topics=topics, trust_domain=trust_domain))).values()
    return way


def batch(way: Way, *payloads: bytes, topic: str = "a/b", key: str = "key-1") -> Batch:
    return batch_of(way, [record(number, payload, topic=topic) for number, payload in enumerate(payloads, 1)], key=key)


def batch_of(way: Way, records: Sequence[Record], *, key: str = "key-1") -> Batch:
    written = write(records, carrier=carrier_of(way.target), writers=way.writers)
    return Batch(way=way, records=written.records, parts=written.parts, key=key)


def credential(directory: Path, name: str = "test.mine", **values: Any) -> Path:
    """A file of --credentials-dir; routes of the relay's tests are of the namespace `test`."""
    path = directory / name
    path.write_bytes(orjson.dumps(values))
    return directory
