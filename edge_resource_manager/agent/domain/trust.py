"""What a LeafDevice's status says about trust, as the edge agent reads and writes it.

The issuer writes the trust of devices that prove themselves (they have a `spec.ueid`); the agent only reads it. For all
others on its node the agent speaks itself: it says so in their status, and its word stands until the device moves, gets
a UEID or is deleted. An agent that is gone takes nothing back: when its node is lost, its devices are offline.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from crds.conditions import Verdict, stamp, timestamp
from crds.models.leafdevice import LeafDevice, LeafDeviceStatus
from crds.models.trust import Trust
from edge_resource_manager.agent.reasons import AgentReason
from spire.domain.publishers import proven_until
from spire.domain.spiffe_id import SpiffeId

ATTESTED = "Attested"
REMIND_BEFORE = timedelta(minutes=5)
"""How long before its trust ends a device is asked; one in order asks long before that by itself."""


def needs_reminder(leaf: LeafDevice, *, now: datetime) -> bool:
    """Whether a device that can prove itself should be asked to."""
    ends = proven_until(leaf, now=now)
    return leaf.spec.ueid is not None and (ends is None or ends - now < REMIND_BEFORE)


def voucher(leaf: LeafDevice, *, by: SpiffeId, now: datetime) -> LeafDeviceStatus | None:
    """The part of the status that the agent has to write; empty takes its word back, None leaves it as it is."""
    status = leaf.status or LeafDeviceStatus()
    if leaf.spec.ueid is not None:
        return LeafDeviceStatus() if status.trust is not None and _is_own(status.trust, by) else None
    held = status.trust
    vouched = held is not None and _is_own(held, by)
    wanted = Verdict(
        type=ATTESTED,
        status="False",
        reason=AgentReason.VOUCHED_BY_GATEWAY,
        message=f"it cannot prove itself; {by} speaks for it",
    )
    said = next((each for each in status.conditions if each.type == ATTESTED), None)
    if (
        vouched
        and said is not None
        and (said.status, said.reason, said.message)
        == (
            wanted.status,
            wanted.reason,
            wanted.message,
        )
    ):
        return None
    since = held.attested_time if held is not None and vouched else timestamp(now)
    return LeafDeviceStatus(
        trust=Trust(tier="GatewayVouched", vouched_by=str(by), attested_time=since),
        conditions=stamp([wanted], before=status.conditions, generation=leaf.metadata.generation, now=now),
    )


def _is_own(trust: Trust, by: SpiffeId) -> bool:
    return trust.tier == "GatewayVouched" and trust.vouched_by == str(by)
