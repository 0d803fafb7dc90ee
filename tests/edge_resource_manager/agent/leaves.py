"""LeafDevices as values, for decisions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from crds.conditions import timestamp
from crds.models.base import ObjectMeta
from crds.models.leafdevice import Access, LeafDevice, LeafDeviceSpec, LeafDeviceStatus, Measurement, Sensor, Source
from crds.models.trust import Tier, Trust
from spire.domain.spiffe_id import SpiffeId

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
AGENT = SpiffeId.parse("spiffe://provider.test/agent/edge-1")


def trust(tier: Tier = "Attested", *, minutes: float = 60, now: datetime = NOW) -> Trust:
    if tier == "GatewayVouched":
        return Trust(tier=tier, vouched_by=str(AGENT), attested_time=timestamp(now))
    ends = timestamp(now + timedelta(minutes=minutes))
    return Trust(tier=tier, attested_time=timestamp(now), expiration_time=ends)


def leaf(
    name: str, *topics: str, ueid: str | None = None, believed: Trust | None = None, created: datetime = NOW
) -> LeafDevice:
    sensors = tuple(
        Sensor(
            uid=f"s{number}",
            model="HTS221",
            measurements=(Measurement(type="humidity", unit="%"),),
            access=Access(topic=topic),
        )
        for number, topic in enumerate(topics)
    )
    source = Source(kind="KubeEdgeDevice", api_version="devices.kubeedge.io/v1beta1", name=name)
    return LeafDevice(
        metadata=ObjectMeta(
            name=name, namespace="site", uid=f"uid-{name}", creation_timestamp=timestamp(created), generation=1
        ),
        spec=LeafDeviceSpec(node_name="edge-1", source=source, ueid=ueid, sensors=sensors),
        status=LeafDeviceStatus(trust=believed),
    )
