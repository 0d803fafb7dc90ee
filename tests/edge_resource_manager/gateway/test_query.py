"""Filters as predicates: what a claim leaves to the provider never hides what the claim would take."""

from contextlib import suppress
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.errors import InvalidField
from crds.models.base import validate
from crds.models.fluidos import FlavorSpec
from crds.models.sensorclaim import Bound, Limits, SensorClaimSpec, SensorNeed
from crds.models.trust import TIERS, Integrity, Tier
from crds.typedata import FlavorView, sensor_from_flavor
from edge_resource_manager.domain import wire
from edge_resource_manager.domain.matching import Candidate, Fits, Need, judge
from edge_resource_manager.domain.query import parse_query, to_query
from edge_resource_manager.domain.stock_query import parse_k8slice_query, quantity
from tests.edge_resource_manager.gateway import samples


def view(**changed: Any) -> FlavorView:
    declared = {key: value for key, value in changed.items() if value is not None}
    spec = samples.sensor("x", namespace="n", **declared)["spec"]
    for key in changed.keys() - declared.keys():
        spec["flavorType"]["typeData"]["characteristics"].pop(key, None)
    return sensor_from_flavor(validate(FlavorSpec, spec))


def matches(has: FlavorView, *pairs: tuple[str, str]) -> bool:
    return parse_query(pairs).matches(has)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("filter[sensorType][match]", "HUMIDITY", True),
        ("filter[unit][match]", "degC", True),
        ("filter[unit][match]", "K", False),
        ("filter[samplingRate][range][min]", "1", True),
        ("filter[samplingRate][range][greaterThan]", "1", False),
        ("filter[samplingRate][range][min]", "60 rpm", True),
        ("filter[samplingRate][range][min]", "0.001kHz", True),
        ("filter[consumption][range][max]", "60uW", True),
        ("filter[consumption][range][lessThan]", "0.06", False),
        ("filter[latency][range][max]", "1e2", True),
        ("filter[latency][range][max]", "0.1 s", True),
        ("filter[latency][range][lessThan]", "100.0001", True),
    ],
)
def test_one_filter_on_the_sample_sensor(key: str, value: str, expected: bool) -> None:
    assert matches(view(), (key, value)) is expected


def test_accuracy_is_that_of_the_type_in_the_unit_of_the_sensor() -> None:
    humidity = ("filter[sensorType][match]", "Humidity")
    temperature = ("filter[sensorType][match]", "Temperature")
    assert matches(view(), humidity, ("filter[accuracy][range][max]", "0.5"))
    assert not matches(view(), humidity, ("filter[accuracy][range][lessThan]", "0.5"))
    assert not matches(view(), humidity, ("filter[accuracy][range][max]", "0.1"))
    assert matches(view(), temperature, ("filter[accuracy][range][max]", "0.1"))
    assert matches(view(), temperature, ("filter[accuracy][range][max]", "100 mK"))
    assert not matches(view(), temperature, ("filter[accuracy][range][max]", "50 hPa"))
    # 0.1 °F is no whole number of millionths of a kelvin, and still 0.1 °F.
    fahrenheit = {"measurement": ["°F", "%"], "consumption": "mW", "samplingRate": "Hz", "latency": "ms"}
    assert matches(view(properties={"unit": fahrenheit}), temperature, ("filter[accuracy][range][max]", "0.1"))


def test_what_is_not_declared_satisfies_no_limit() -> None:
    silent = view(latency=None, accuracy=None)
    assert not matches(silent, ("filter[latency][range][max]", "100000"))
    assert not matches(silent, ("filter[latency][range][min]", "0"))
    assert not matches(silent, ("filter[sensorType][match]", "Humidity"), ("filter[accuracy][range][max]", "100"))
    assert matches(silent, ("filter[model][match]", "hts221"))


@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=40)), max_size=4))
def test_any_query_is_a_predicate_or_an_invalid_field(pairs: list[tuple[str, str]]) -> None:
    for parse in (parse_query, parse_k8slice_query):
        with suppress(InvalidField):
            parse(pairs)


@given(
    st.sampled_from(["latency", "samplingRate", "consumption", "accuracy", "model", "unit"]),
    st.sampled_from(["[match]", "[range][min]", "[range][max]", "[range][lessThan]", "[range][greaterThan]"]),
    st.text("0123456789.eE+-nμ°%msHzWkMGKhPa \u0663", max_size=12),
)
def test_any_value_of_a_known_field_is_a_predicate_or_an_invalid_field(field: str, operator: str, value: str) -> None:
    pairs = [("filter[sensorType][match]", "Temperature"), (f"filter[{field}]{operator}", value)]
    with suppress(InvalidField):
        assert parse_query(pairs).matches(view()) in (True, False)


numbers = st.integers(0, 200_000)
bounds = st.builds(lambda name, value: Bound(**{name: value}), st.sampled_from(["at_most", "at_least"]), numbers) | (
    st.builds(lambda value: Bound(less_than=value + 1), numbers)
    | st.builds(lambda value: Bound(greater_than=value), numbers)
)
needs = st.builds(
    SensorNeed,
    type=st.none() | st.sampled_from(["humidity", "Temperature", "Pressure"]),
    model=st.none() | st.sampled_from(["HTS221", "other"]),
    unit=st.none() | st.sampled_from(["degC", "%", "hPa"]),
    mcu_family=st.none() | st.sampled_from(["stm32", "nRF52"]),
)
limits = st.builds(
    Limits,
    latency_microseconds=st.none() | bounds,
    sampling_rate_millihertz=st.none() | bounds,
    consumption_microwatts=st.none() | bounds,
)
integrities: st.SearchStrategy[Integrity] = st.sampled_from(["None", "Signed"])
views = st.builds(
    view,
    latency=st.none() | st.sampled_from(["16", "15.999", "16.0004", "100"]),
    samplingRate=st.none() | st.sampled_from(["1", "0.0015", "100"]),
    consumption=st.none() | st.sampled_from(["0.06", "0.0000001"]),
    additional=st.none()
    | st.builds(
        lambda tier, integrity: {"mcu": "STM32U585AI", "trustTier": tier, "integrity": integrity},
        st.sampled_from(TIERS),
        integrities,
    ),
)


@pytest.mark.parametrize(
    ("asked", "matching"),
    [
        ("[range][min]=GatewayVouched", ("GatewayVouched", "Attested")),
        ("[range][lessThan]=gatewayvouched", (None, "None", "Legacy")),
        ("[match]=Legacy", ("Legacy",)),
        ("[match]=None", (None, "None")),
    ],
)
def test_tiers_are_ordered(asked: str, matching: tuple[Tier | None, ...]) -> None:
    operator, _, value = asked.partition("=")
    query = parse_query([(f"filter[trustTier]{operator}", value)])
    found = [each for each in (None, *TIERS) if query.matches(view(additional={"trustTier": each} if each else None))]
    assert tuple(found) == matching


def test_a_tier_that_is_none_is_named() -> None:
    with pytest.raises(InvalidField, match=r"filter\[trustTier\]\[match\]: 'Gold'.*one of None, Legacy"):
        parse_query([("filter[trustTier][match]", "Gold")])


@settings(max_examples=300)
@given(needs, limits, views, st.sampled_from(TIERS), integrities)
def test_what_a_claim_takes_its_query_finds(
    need: SensorNeed, limits: Limits, has: FlavorView, tier: Tier, integrity: Integrity
) -> None:
    spec = SensorClaimSpec.model_construct(
        sensor=need, limits=limits, selector=None, endpoints=(), minimum_tier=tier, integrity=integrity
    )
    query = parse_query(to_query(need=need, limits=limits, minimum_tier=tier, integrity=integrity))
    taken = isinstance(judge(Need.of(spec), candidate(has)), Fits)
    assert query.matches(has) or not taken
    # A claim wants the unit of the very type that it asks for, a query that of any: the only difference.
    if need.type is None or need.unit is None:
        assert query.matches(has) == taken


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", Fraction(4)),
        ("500m", Fraction(1, 2)),
        ("2Gi", Fraction(2 * 1024**3)),
        ("1e3", Fraction(1000)),
        ("1.5k", Fraction(1500)),
        (110, Fraction(110)),
        ("2GB", None),
        ("", None),
        ("1e999999999", None),
        (None, None),
    ],
)
def test_quantities_are_those_of_kubernetes(text: object, value: Fraction | None) -> None:
    assert quantity(text) == value


def candidate(has: FlavorView) -> Candidate:
    return Candidate(
        flavor="f",
        provider="p",
        address="127.0.0.1:3004",
        cluster="c",
        view=has,
        available=True,
        timestamp=datetime(2026, 11, 21, tzinfo=UTC),
        price=wire.Price(amount="", currency="", period=""),
    )
