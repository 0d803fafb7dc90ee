"""Who may publish on which topic of a node: of its LeafDevices and their trust alone, whatever broker enforces it.

An account is the common name of a certificate: a device's UEID, or the node's mapper, which speaks for devices that
cannot prove themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from crds.conditions import parse_timestamp
from crds.models.leafdevice import LeafDevice
from spire.domain.spiffe_id import SpiffeId

UEID: Final = re.compile(r"0[123]([0-9a-f]{2}){6,32}")
_RESERVED: Final = re.compile(r"\$|attest(/|$)|device/0[123]([0-9a-f]{2}){6,32}(/|$)")


@dataclass(frozen=True, slots=True, order=True)
class RefusedTopic:
    """A topic of a LeafDevice that its publisher gets no right to."""

    device: str
    topic: str
    why: str


@dataclass(frozen=True, slots=True)
class Publishers:
    """What is to be.

    Attributes:
        topics: by account, those of its sensors; the mapper is always there, a device while it is believed.
        ends: by account, when the earliest of its proofs ends.
        refused: topics that nobody, or somebody else, may publish on.
    """

    topics: Mapping[str, frozenset[str]]
    ends: Mapping[str, datetime]
    refused: tuple[RefusedTopic, ...]


def mapper_account(node: str) -> str:
    """Common name of what publishes for devices that cannot prove themselves, such as KubeEdge's mappers."""
    return f"mapper.{node}"


def publishers(
    devices: Iterable[LeafDevice],
    *,
    node: str,
    agent: SpiffeId,
    now: datetime,
    distrusted: Callable[[LeafDevice], bool] = lambda _: False,
) -> Publishers:
    """Decide it for a node.

    A topic belongs to one publisher: a device that can prove itself before the mapper, the older object before the
    newer; whether the owner is trusted at the moment does not matter, or its topic would be free while it is not.

    Args:
        devices: the LeafDevices of the node.
        node: its name.
        agent: who speaks for devices that cannot prove themselves.
        now: the time.
        distrusted: whether what a status says is known to be wrong and not yet rewritten.
    """
    mapper = mapper_account(node)
    topics: dict[str, set[str]] = {mapper: set()}
    ends: dict[str, datetime] = {}
    owners: dict[str, str] = {}
    refused: list[RefusedTopic] = []
    for leaf in sorted(devices, key=_precedence):
        name = publisher(leaf, mapper=mapper)
        proven = None if distrusted(leaf) else proven_until(leaf, now=now)
        if proven is not None:
            ends[name] = min(proven, ends.get(name, proven))
            topics.setdefault(name, set())
        for topic in dict.fromkeys(sensor.access.topic for sensor in leaf.spec.sensors):
            if _RESERVED.match(topic) and not topic.startswith(f"device/{name}/"):
                refused.append(RefusedTopic(leaf.metadata.name, topic, "it is reserved"))
            elif owners.setdefault(topic, name) != name:
                refused.append(RefusedTopic(leaf.metadata.name, topic, f"it is the topic of {owners[topic]}"))
            elif proven is not None or is_vouched(leaf, by=agent):
                topics[name].add(topic)
    return Publishers(
        topics={name: frozenset(several) for name, several in topics.items()},
        ends=ends,
        refused=tuple(sorted(refused)),
    )


def proven_until(leaf: LeafDevice, *, now: datetime) -> datetime | None:
    """Until when the issuer believes a device; None where it does not, or not any more."""
    trust = leaf.status.trust if leaf.status else None
    if leaf.spec.ueid is None or trust is None or trust.tier not in {"Attested", "Legacy"}:
        return None
    ends = parse_timestamp(trust.expiration_time or "")
    return ends if ends is not None and now < ends else None


def publisher(leaf: LeafDevice, *, mapper: str) -> str:
    """The account that publishes the device's readings: its own where it can have an SVID, else the mapper's."""
    trust = leaf.status.trust if leaf.status else None
    legacy = trust is not None and trust.tier == "Legacy"
    return mapper if leaf.spec.ueid is None or legacy else leaf.spec.ueid


def is_vouched(leaf: LeafDevice, *, by: SpiffeId) -> bool:
    """Whether this agent speaks for the device."""
    trust = leaf.status.trust if leaf.status else None
    return (
        leaf.spec.ueid is None and trust is not None and trust.tier == "GatewayVouched" and trust.vouched_by == str(by)
    )


def _precedence(leaf: LeafDevice) -> tuple[bool, str, str]:
    return leaf.spec.ueid is None, leaf.metadata.creation_timestamp or "", leaf.metadata.uid or ""
