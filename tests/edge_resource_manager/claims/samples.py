"""Flavors and claims that tests of claims start from."""

from datetime import UTC, datetime
from typing import Any

from crds.models.leafdevice import Access, Board, Measurement, Sensor
from crds.models.sensorclaim import Bound, Limits, SensorClaimSpec, SensorNeed
from crds.models.trust import Integrity, Tier
from crds.typedata import FlavorTrust, FlavorView
from edge_resource_manager.domain import wire
from edge_resource_manager.domain.matching import Candidate

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
FREE = wire.Price(amount="", currency="", period="")
ENDPOINT = {"name": "sink", "url": "http://192.0.2.7:4487/telegraf"}


def candidate(
    flavor: str = "flavor-1",
    *,
    provider: str = "provider-1",
    latency: int | None = 12_000,
    rate: int | None = 1_000,
    consumption: int | None = 60,
    measurements: tuple[Measurement, ...] = (
        Measurement(type="Temperature", unit="°C", accuracy_microunits=100_000),
        Measurement(type="Humidity", unit="%", accuracy_microunits=5_000),
    ),
    model: str = "hts221",
    board: str = "B-L475E-IOT01A",
    family: str = "STM32",
    available: bool = True,
    timestamp: datetime = NOW,
    price: wire.Price = FREE,
    tier: Tier | None = "GatewayVouched",
    spiffe_id: str | None = None,
    application: str = "",
    integrity: Integrity = "None",
) -> Candidate:
    trust = FlavorTrust(tier=tier, spiffe_id=spiffe_id, application=application) if tier else None
    sensor = Sensor(
        uid=flavor,
        model=model,
        manufacturer="STMicroelectronics",
        category="Environmental",
        measurements=measurements,
        latency_microseconds=latency,
        sampling_rate_millihertz=rate,
        consumption_microwatts=consumption,
        integrity=integrity,
        access=Access(topic=f"sensor/{flavor}"),
    )
    return Candidate(
        flavor=flavor,
        provider=provider,
        address="192.0.2.1:3004",
        cluster="node1",
        view=FlavorView(
            sensor=sensor, board=Board(name=board, mcu="STM32L475", mcu_family=family), node="edge-1", trust=trust
        ),
        available=available,
        timestamp=timestamp,
        price=price,
    )


def limits(**bounds: dict[str, int]) -> Limits:
    return Limits(**{name: Bound(**bound) for name, bound in bounds.items()})


def spec(
    *,
    sensor: dict[str, str] | None = None,
    selector: str | None = None,
    count: Any = 1,
    minimum_tier: Tier = "GatewayVouched",
    integrity: Integrity = "None",
    **bounds: dict[str, int],
) -> SensorClaimSpec:
    return SensorClaimSpec.model_validate(
        {
            "sensor": SensorNeed(**sensor) if sensor else None,
            "limits": limits(**bounds) if bounds else None,
            "selector": selector,
            "count": count,
            "minimum_tier": minimum_tier,
            "integrity": integrity,
            "endpoints": (ENDPOINT,),
        }
    )
