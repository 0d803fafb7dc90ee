"""FLUIDOS' announcements on the LAN: what a datagram says, and what becomes of the KnownClusters it concerns.

A node says every 5 s who it is: one UDP datagram with its NodeIdentity as JSON, in the CR's form. Whoever hears it
knows that cluster until 10 s after the last one. Anybody on the LAN can send one, so everything is bounded and checked.
Source: fluidos-project/node, pkg/network-manager.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson

from crds.conditions import parse_timestamp, timestamp
from crds.errors import InvalidField
from crds.models.base import ObjectMeta, validate
from crds.models.fluidos import (
    FLUIDOS_NAMESPACE,
    KnownCluster,
    KnownClusterSpec,
    KnownClusterStatus,
    NodeIdentity,
)

MAX_DATAGRAM = 1024
MAX_DISCOVERED = 64
LIFETIME = timedelta(seconds=10)
REFRESH = timedelta(seconds=4)
"""How old a status must be to be written again: one write for each announcement of an honest node."""

MANAGED_BY = {"app.kubernetes.io/managed-by": "fluidos-edge-discovery"}
"""On what was discovered: nothing else is ever changed or removed."""

_NODE_ID = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_ADDRESS = re.compile(r"([0-9]{1,3}\.){3}[0-9]{1,3}:[0-9]{1,5}|\[[0-9a-fA-F:]{2,39}\]:[0-9]{1,5}", re.ASCII)


def encode(identity: NodeIdentity) -> bytes:
    """Our own announcement."""
    return orjson.dumps(identity.dump())


def decode(datagram: bytes) -> NodeIdentity:
    """Read an announcement.

    Raises:
        InvalidField: too long, no JSON, or a name or an address that is none.
    """
    if len(datagram) > MAX_DATAGRAM:
        raise InvalidField(field="(datagram)", value=len(datagram), expected=f"at most {MAX_DATAGRAM} bytes")
    try:
        obj = orjson.loads(datagram)
    except orjson.JSONDecodeError as error:
        raise InvalidField(field="(datagram)", value=datagram[:64], expected=f"JSON ({error})") from error
    identity = validate(NodeIdentity, obj)
    if not _NODE_ID.fullmatch(identity.node_id):
        raise InvalidField(field="nodeID", value=identity.node_id, expected="a DNS-1123 label")
    if not _ADDRESS.fullmatch(identity.ip):
        raise InvalidField(field="ip", value=identity.ip, expected="an IP address and a port")
    return identity


@dataclass(frozen=True, slots=True)
class Create:
    """A cluster that was not known."""

    cluster: KnownCluster


@dataclass(frozen=True, slots=True)
class Move:
    """A known cluster at another address."""

    cluster: KnownCluster


@dataclass(frozen=True, slots=True)
class Refresh:
    """A known cluster that is still there."""

    cluster: KnownCluster


@dataclass(frozen=True, slots=True)
class Ignore:
    """Nothing to write, and why."""

    why: str


Heard = Create | Move | Refresh | Ignore


def hear(identity: NodeIdentity, *, own: NodeIdentity, known: Mapping[str, KnownCluster], now: datetime) -> Heard:
    """What an announcement changes.

    Args:
        identity: who announces itself.
        own: who we are.
        known: KnownClusters of the namespace `fluidos`, by name.
        now: for the expiry.
    """
    if identity.node_id == own.node_id or identity.ip == own.ip:
        return Ignore("own")
    name = f"knowncluster-{identity.node_id}"
    wanted = KnownCluster(
        metadata=ObjectMeta(name=name, namespace=FLUIDOS_NAMESPACE, labels=MANAGED_BY),
        spec=KnownClusterSpec(address=identity.ip),
        status=KnownClusterStatus(expiration_time=timestamp(now + LIFETIME), last_update_time=timestamp(now)),
    )
    current = known.get(name)
    if current is None:
        full = sum(is_ours(cluster) for cluster in known.values()) >= MAX_DISCOVERED
        return Ignore("full") if full else Create(wanted)
    if not is_ours(current):
        return Ignore("by hand")
    if current.spec.address != identity.ip:
        return Move(wanted)
    updated = parse_timestamp(current.status.last_update_time) if current.status else None
    return Ignore("fresh") if updated is not None and now - updated < REFRESH else Refresh(wanted)


def expired(known: Iterable[KnownCluster], *, now: datetime) -> tuple[KnownCluster, ...]:
    """Discovered clusters that have not been heard of for their lifetime."""
    return tuple(cluster for cluster in known if is_ours(cluster) and (end := _end(cluster)) is not None and end <= now)


def is_ours(cluster: KnownCluster) -> bool:
    """Whether it was discovered, and not made by hand."""
    return MANAGED_BY.items() <= cluster.metadata.labels.items()


def _end(cluster: KnownCluster) -> datetime | None:
    """One whose status could not be written lives from its creation on."""
    if cluster.status is not None:
        return parse_timestamp(cluster.status.expiration_time)
    created = parse_timestamp(cluster.metadata.creation_timestamp or "")
    return created and created + LIFETIME
