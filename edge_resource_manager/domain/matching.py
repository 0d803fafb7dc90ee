"""Does a flavor satisfy a claim, and if not, by how much does it miss?

First step of a claim's decision (matching → ranking → claims). Everything is compared as the integers that the models
hold: 16.000 ms is not less than 16 ms, and no float ever decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from functools import partial

from crds.conditions import parse_timestamp
from crds.errors import InvalidField
from crds.models.leafdevice import Measurement
from crds.models.sensorclaim import Bound, LatencyBasis, Limits, OnBreach, SensorClaimSpec, SensorNeed
from crds.models.trust import Integrity, Tier, at_least
from crds.selector import NotMatched, Selector, attributes, compile_selector, device
from crds.typedata import FlavorView, sensor_from_flavor
from crds.units import parse_unit
from edge_resource_manager.domain import wire
from edge_resource_manager.domain.conversion import flavor_from_wire
from edge_resource_manager.domain.query import folded, measures_in

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", re.ASCII)

UNDECLARED = Fraction(1)
"""How far a number that nobody declared is from its limit: as far as one of twice the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One Sensor flavor as a provider lists it.

    Attributes:
        flavor: flavorID.
        provider: name of the KnownCluster that listed it.
        address: `host:port` of that provider's REAR gateway.
        cluster: providerID, what selectors see as `cluster`.
        view: what the sensor is and can do.
        available: whether the provider sells it now.
        timestamp: when the provider last changed or confirmed it.
        price: as the provider asks.
    """

    flavor: str
    provider: str
    address: str
    cluster: str
    view: FlavorView
    available: bool
    timestamp: datetime
    price: wire.Price

    @classmethod
    def of(cls, flavor: wire.Flavor, *, provider: str, address: str) -> Candidate:
        """Read what a provider sent.

        Raises:
            InvalidField: the flavor is no sensor, or nothing that could be bound.
        """
        moment = parse_timestamp(flavor.timestamp)
        if moment is None:
            raise InvalidField(field="timestamp", value=flavor.timestamp, expected="RFC 3339")
        if not _NAME.fullmatch(flavor.flavor_id):
            raise InvalidField(field="flavorID", value=flavor.flavor_id, expected="a DNS-1123 subdomain")
        return cls(
            flavor=flavor.flavor_id,
            provider=provider,
            address=address,
            cluster=flavor.provider_id,
            view=sensor_from_flavor(flavor_from_wire(flavor)),
            available=flavor.availability,
            timestamp=moment,
            price=flavor.price,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """One thing that is not as asked.

    Attributes:
        field: as a user would name it.
        asked: with its unit.
        has: with its unit.
        distance: how far a number is beyond its limit, relative to the limit; None for what is not a number.
    """

    field: str
    asked: str
    has: str
    distance: Fraction | None = None

    def __str__(self) -> str:
        return f"{self.field} {self.has}, asked {self.asked}"


@dataclass(frozen=True, slots=True)
class Fits:
    """All is as asked.

    Attributes:
        margin: 0 to 1, what is left to the tightest limit relative to it; 1 where there are no limits.
    """

    margin: Fraction


@dataclass(frozen=True, slots=True)
class Fails:
    """At least one thing is not as asked."""

    misses: tuple[Miss, ...]


@dataclass(frozen=True, slots=True)
class Need:
    """What a claim asks, checked and compiled once. Build it with `Need.of`."""

    sensor: SensorNeed
    limits: Limits
    selector: Selector | None
    minimum_tier: Tier
    integrity: Integrity
    latency_basis: LatencyBasis
    on_breach: OnBreach
    repurpose_seconds: int = 0
    """How long it may take to make a device into what is asked; 0 where none may be."""

    @property
    def once_bound(self) -> Need:
        """What is asked of a flavor that is bound: how fast it is then, its own promise says."""
        if self.latency_basis == "Declared":
            return self
        return replace(self, limits=self.limits.model_copy(update={"latency_microseconds": None}))

    @classmethod
    def of(cls, spec: SensorClaimSpec, *, insecure: bool = False) -> Need:
        """Compile a claim. An insecure buyer could believe no tier, so it asks for none.

        Raises:
            InvalidField: the selector is no boolean CEL expression, or the unit is unknown.
        """
        sensor = spec.sensor or SensorNeed()
        if sensor.unit is not None:
            parse_unit(sensor.unit, field="spec.sensor.unit", sensor_type=sensor.type or "")
        selector = None if spec.selector is None else compile_selector(spec.selector, field="spec.selector")
        repurpose = spec.repurpose if spec.repurpose and spec.repurpose.mode == "Allow" else None
        minimum: Tier = "None" if insecure else spec.minimum_tier
        return cls(
            sensor=sensor,
            limits=spec.limits or Limits(),
            selector=selector,
            minimum_tier=minimum,
            integrity=spec.integrity,
            latency_basis=spec.latency_basis,
            on_breach=spec.on_breach,
            repurpose_seconds=repurpose.max_seconds if repurpose else 0,
        )


def judge(need: Need, candidate: Candidate) -> Fits | Fails:
    """Compare one flavor with what is asked."""
    numbers = [_compare(number) for number in _numbers(need, candidate.view)]
    misses = (
        *_different(need, candidate.view),
        *(outcome for outcome in numbers if isinstance(outcome, Miss)),
        *_selector(need, candidate),
        *_trust(need, candidate.view),
        *_integrity(need, candidate.view),
        *_availability(candidate),
        *_repurposing(need, candidate.view),
    )
    if misses:
        return Fails(misses)
    return Fits(min((margin for margin in numbers if isinstance(margin, Fraction)), default=Fraction(1)))


def closest(failed: Iterable[tuple[Candidate, Fails]], *, n: int = 3) -> tuple[tuple[Candidate, Fails], ...]:
    """The flavors that missed least: the right thing first, then the fewest failed limits, then the nearest numbers."""

    def key(item: tuple[Candidate, Fails]) -> tuple[int, int, Fraction, str]:
        candidate, fails = item
        distances = [miss.distance for miss in fails.misses if miss.distance is not None]
        return len(fails.misses) - len(distances), len(distances), sum(distances, Fraction(0)), candidate.flavor

    return tuple(sorted(failed, key=key)[:n])


def describe(near: Sequence[tuple[Candidate, Fails]]) -> str:
    """A sentence for people: which flavors came closest, and what each one failed."""
    if not near:
        return ""
    rows = (
        f"{candidate.flavor} of {candidate.provider} ({candidate.view.sensor.model}): "
        + ", ".join(str(miss) for miss in fails.misses)
        for candidate, fails in near
    )
    return printable(f"{len(near)} flavor{'s' * (len(near) > 1)} came closest: " + "; ".join(rows))


def printable(text: str) -> str:
    """What providers say ends up on terminals: without anything that steers one."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Number:
    """One integer, its limits, and how people read it."""

    field: str
    value: int | None
    bound: Bound
    show: Callable[[int], str]
    absent: str = "not declared"


def _numbers(need: Need, view: FlavorView) -> Iterator[_Number]:
    limits, sensor = need.limits, view.sensor
    latency = limits.latency_microseconds
    if latency is not None and need.latency_basis == "Observed":
        observed = view.observed_latency_microseconds
        yield _Number(field="observed latency", value=observed, bound=latency, show=milliseconds, absent="not observed")
    elif latency is not None:
        yield _Number(field="latency", value=sensor.latency_microseconds, bound=latency, show=milliseconds)
    for field, value, bound, unit in (
        ("samplingRate", sensor.sampling_rate_millihertz, limits.sampling_rate_millihertz, "Hz"),
        ("consumption", sensor.consumption_microwatts, limits.consumption_microwatts, "mW"),
    ):
        if bound is not None:
            yield _Number(field=field, value=value, bound=bound, show=partial(_thousandths, unit=unit))
    if limits.accuracy_microunits is not None:
        measured = _measured(need.sensor.type, view)
        yield _Number(
            field="accuracy",
            value=measured.accuracy_microunits if measured else None,
            bound=limits.accuracy_microunits,
            show=lambda number: _tolerance(number, measured),
        )


def _compare(number: _Number) -> Fraction | Miss:
    """The margin, or the miss."""
    bound, value = number.bound, number.value
    if value is None:
        return Miss(field=number.field, asked=asked(bound, number.show), has=number.absent, distance=UNDECLARED)
    upper, lower = bound.upper, bound.lower
    margins = [Fraction(1)]
    if upper is not None:
        margins.append(Fraction(upper - value, max(upper, 1)))
    if lower is not None:
        margins.append(Fraction(value - lower, max(value if value >= lower else lower, 1)))
    margin = min(margins)
    if margin >= 0:
        return margin
    return Miss(field=number.field, asked=asked(bound, number.show), has=number.show(value), distance=-margin)


def _different(need: Need, view: FlavorView) -> Iterator[Miss]:
    """What kind of thing it is. Only what is asked is compared."""
    sensor, board = view.sensor, view.board
    measured = _measured(need.sensor.type, view)
    if need.sensor.type is not None and measured is None:
        types = ", ".join(measurement.type for measurement in sensor.measurements)
        yield Miss(field="type", asked=need.sensor.type, has=types)
    elif need.sensor.unit is not None:
        of_type = sensor.measurements if measured is None or need.sensor.type is None else (measured,)
        if not any(measures_in(need.sensor.unit, measurement) for measurement in of_type):
            yield Miss(
                field="unit",
                asked=need.sensor.unit or "1",
                has=", ".join(measurement.unit or "1" for measurement in of_type),
            )
    for field, asked, has in (
        ("category", need.sensor.category, sensor.category),
        ("model", need.sensor.model, sensor.model),
        ("manufacturer", need.sensor.manufacturer, sensor.manufacturer),
        ("market", need.sensor.market, sensor.market),
        ("board", need.sensor.board, board.name),
        ("mcu", need.sensor.mcu, board.mcu),
        ("mcuFamily", need.sensor.mcu_family, board.mcu_family),
    ):
        if asked is not None and folded(asked) != folded(has or ""):
            yield Miss(field=field, asked=asked, has=has or "not declared")


def _selector(need: Need, candidate: Candidate) -> Iterator[Miss]:
    if need.selector is None:
        return
    view = candidate.view
    found = attributes(
        sensor=view.sensor,
        board=view.board,
        node=view.node,
        cluster=candidate.cluster,
        trust=view.trust,
        observed_latency_microseconds=view.observed_latency_microseconds,
    )
    outcome = need.selector.match(device(found))
    if isinstance(outcome, NotMatched):
        yield Miss(field="selector", asked=_shortened(need.selector.expression), has=outcome.why)


def _trust(need: Need, view: FlavorView) -> Iterator[Miss]:
    """A provider that says nothing of trust, as FLUIDOS' own do, has proven none."""
    tier: Tier = view.trust.tier if view.trust else "None"
    if not at_least(tier, need.minimum_tier):
        yield Miss(field="trust", asked=f"at least {need.minimum_tier}", has=tier)


def _integrity(need: Need, view: FlavorView) -> Iterator[Miss]:
    if need.integrity == "Signed" and view.sensor.integrity != "Signed":
        yield Miss(field="integrity", asked=need.integrity, has=view.sensor.integrity)


def _availability(candidate: Candidate) -> Iterator[Miss]:
    if not candidate.available:
        # Distance 0: of all that does not fit, what will fit as soon as its device is back is the closest.
        yield Miss(field="availability", asked="available", has="not available", distance=Fraction(0))


def _repurposing(need: Need, view: FlavorView) -> Iterator[Miss]:
    if view.repurpose_seconds is not None and view.repurpose_seconds > need.repurpose_seconds:
        allowed = f"at most {need.repurpose_seconds} s" if need.repurpose_seconds else "no repurposing"
        yield Miss(field="repurposing", asked=allowed, has=f"{view.repurpose_seconds} s")


def _measured(asked: str | None, view: FlavorView) -> Measurement | None:
    """The quantity that is asked for, or the first where none is named."""
    if asked is None:
        return view.sensor.measurements[0]
    return next((m for m in view.sensor.measurements if folded(m.type) == folded(asked)), None)


def asked(bound: Bound, show: Callable[[int], str]) -> str:
    """A limit, for people."""
    limits = (
        (">", bound.greater_than),
        (">=", bound.at_least),
        ("<", bound.less_than),
        ("<=", bound.at_most),
    )
    return " and ".join(f"{sign} {show(limit)}" for sign, limit in limits if limit is not None)


def milliseconds(microseconds: int) -> str:
    """A time, for people."""
    return _thousandths(microseconds, unit="ms")


def _thousandths(number: int, *, unit: str) -> str:
    return f"{number // 1000}.{number % 1000:03} {unit}"


def _tolerance(number: int, measured: Measurement | None) -> str:
    """Millionths of the base unit, in the sensor's own unit."""
    if measured is None:
        return f"{number} millionths"
    unit = parse_unit(measured.unit, field="unit", sensor_type=measured.type)
    return f"{float(Fraction(number, 1_000_000) / unit.scale):g} {unit.symbol}".rstrip()


def _shortened(expression: str) -> str:
    return expression if len(expression) <= 80 else expression[:77] + "..."
