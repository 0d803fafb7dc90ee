"""Whether a device can be counted on: what it last said, and what became of its node.

KubeEdge turns no state over when a mapper, an edge node or a link dies: the last word stands for ever, so its age is
what counts. A device that never reports (a passive one, or one whose mapper reports nothing to the cloud) is not judged
by silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from crds.conditions import Verdict, timestamp
from edge_resource_manager.reasons import DiscoveryReason, LeafCondition


@dataclass(frozen=True, slots=True)
class Report:
    """The device's last words: its state as its source names it, and when anything was last heard of it."""

    state: str = ""
    seen: datetime | None = None


@dataclass(frozen=True, slots=True)
class NodeReady:
    """The node answers."""


@dataclass(frozen=True, slots=True)
class NodeNotReady:
    """The node does not answer, or says that it is not ready."""

    since: datetime


@dataclass(frozen=True, slots=True)
class NodeGone:
    """The Node object was deleted, or is not there."""

    since: datetime


NodeHealth = NodeReady | NodeNotReady | NodeGone


@dataclass(frozen=True, slots=True, kw_only=True)
class Graces:
    """How long a node may be lost, and a device silent, before its sensors are withdrawn."""

    node: timedelta = timedelta(seconds=30)
    device: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Outlook:
    """Whether the device is online, and the seconds after which time alone may change that."""

    online: Verdict
    look_again: float | None = None

    @property
    def available(self) -> bool:
        """Whether its sensors can be bought: also while nothing is known."""
        return self.online.status != "False"


def outlook(*, node: NodeHealth, report: Report, now: datetime, graces: Graces) -> Outlook:
    """What to think of a device now; a lost node outweighs whatever the device said last."""
    match node:
        case NodeReady():
            return _of_device(report, now=now, grace=graces.device)
        case NodeNotReady(since):
            reason, message = DiscoveryReason.NODE_NOT_READY, f"the node is not ready since {timestamp(since)}"
        case NodeGone(since):
            reason, message = DiscoveryReason.NODE_GONE, "the Node object is gone"
        case _:
            assert_never(node)
    left = (since + graces.node - now).total_seconds()
    if left <= 0:
        return Outlook(_offline(reason, message))
    meanwhile = _of_device(report, now=now, grace=graces.device)
    return Outlook(meanwhile.online, min(left, meanwhile.look_again or left))


def _of_device(report: Report, *, now: datetime, grace: timedelta) -> Outlook:
    if report.state.lower() == "offline":
        return Outlook(_offline(DiscoveryReason.DEVICE_OFFLINE, "its mapper reports it offline"))
    if report.seen is None:
        message = "nothing was ever reported; silence is not held against it"
        return Outlook(
            Verdict(type=LeafCondition.ONLINE, status="Unknown", reason=DiscoveryReason.NO_REPORT, message=message)
        )
    left = (report.seen + grace - now).total_seconds()
    if left <= 0:
        message = f"last heard of at {timestamp(report.seen)}"
        return Outlook(_offline(DiscoveryReason.DEVICE_SILENT, message))
    return Outlook(Verdict(type=LeafCondition.ONLINE, status="True", reason=DiscoveryReason.REPORTING), left)


def _offline(reason: DiscoveryReason, message: str) -> Verdict:
    return Verdict(type=LeafCondition.ONLINE, status="False", reason=reason, message=message)
