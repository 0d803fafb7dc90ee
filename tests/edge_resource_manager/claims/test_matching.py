from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.errors import InvalidField
from crds.models.leafdevice import Measurement
from crds.models.sensorclaim import Bound, SensorClaimSpec, SensorNeed
from crds.models.trust import TIERS, Tier
from edge_resource_manager.domain.matching import Candidate, Fails, Fits, Need, closest, describe, judge
from tests.edge_resource_manager.claims.samples import ENDPOINT, candidate, spec

HUMIDITY = {"type": "Humidity"}
numbers = st.integers(0, 100_000)


def misses(need: Need, offered: Candidate) -> list[str]:
    outcome = judge(need, offered)
    return [str(miss) for miss in outcome.misses] if isinstance(outcome, Fails) else []


def test_sixteen_milliseconds_are_not_less_than_sixteen() -> None:
    strict = Need.of(spec(sensor=HUMIDITY, latency_microseconds={"less_than": 16_000}))
    inclusive = Need.of(spec(sensor=HUMIDITY, latency_microseconds={"at_most": 16_000}))
    assert misses(strict, candidate(latency=16_000)) == ["latency 16.000 ms, asked < 16.000 ms"]
    assert isinstance(judge(inclusive, candidate(latency=16_000)), Fits)
    assert isinstance(judge(strict, candidate(latency=15_999)), Fits)
    assert misses(inclusive, candidate(latency=16_001)) == ["latency 16.001 ms, asked <= 16.000 ms"]


def test_a_number_that_nobody_declared_satisfies_no_limit() -> None:
    need = Need.of(spec(latency_microseconds={"less_than": 16_000}, sampling_rate_millihertz={"at_least": 1}))
    assert misses(need, candidate(latency=None, rate=None)) == [
        "latency not declared, asked < 16.000 ms",
        "samplingRate not declared, asked >= 0.001 Hz",
    ]


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ({"type": "humidity"}, True),
        ({"type": "TEMPERATURE"}, True),
        ({"type": "Pressure"}, False),
        ({"mcu_family": "stm32", "board": "b-l475e-iot01a", "model": "HTS221"}, True),
        ({"mcu_family": "nRF52"}, False),
        ({"market": "Commercial"}, False),
        ({"type": "Temperature", "unit": "degC"}, True),
        ({"type": "Temperature", "unit": "°F"}, False),
        ({"type": "Humidity", "unit": "°C"}, False),
        ({"unit": "%"}, True),
    ],
)
def test_what_a_sensor_is_compares_without_regard_to_case_and_units_by_meaning(
    asked: dict[str, str], *, fits: bool
) -> None:
    assert isinstance(judge(Need.of(spec(sensor=asked)), candidate()), Fits) is fits


def test_accuracy_is_that_of_the_type_that_was_asked_for() -> None:
    def need(sensor_type: str) -> Need:
        return Need.of(spec(sensor={"type": sensor_type}, accuracy_microunits={"at_most": 5_000}))

    assert isinstance(judge(need("Humidity"), candidate()), Fits)
    assert misses(need("Temperature"), candidate()) == ["accuracy 0.1 °C, asked <= 0.005 °C"]


def test_a_selector_sees_what_dra_would() -> None:
    expression = 'device.attributes["sensor.fluidos.eu"].latencyMicros < 16000'
    assert isinstance(judge(Need.of(spec(selector=expression)), candidate()), Fits)
    assert misses(Need.of(spec(selector=expression)), candidate(latency=25_000)) == [
        f"selector is false, asked {expression}"
    ]
    outcome = misses(Need.of(spec(selector=expression)), candidate(latency=None))
    assert len(outcome) == 1
    assert "cannot be evaluated" in outcome[0]


def test_a_selector_or_a_unit_that_means_nothing_is_refused_at_once() -> None:
    with pytest.raises(InvalidField, match=r"spec\.selector"):
        Need.of(spec(selector="device.attributes["))
    with pytest.raises(InvalidField, match=r"spec\.sensor\.unit"):
        Need.of(spec(sensor={"unit": "furlong"}))


@given(asked=st.sampled_from(TIERS), tier=st.none() | st.sampled_from(TIERS), insecure=st.booleans())
def test_a_device_must_have_proven_as_much_as_is_asked_unless_nobody_could_believe_it(
    asked: Tier, tier: Tier | None, insecure: bool
) -> None:
    outcome = judge(Need.of(spec(sensor=HUMIDITY, minimum_tier=asked), insecure=insecure), candidate(tier=tier))
    assert isinstance(outcome, Fits) is (insecure or TIERS.index(tier or "None") >= TIERS.index(asked))
    if isinstance(outcome, Fails):
        assert [str(miss) for miss in outcome.misses] == [f"trust {tier or 'None'}, asked at least {asked}"]


def test_only_sensors_whose_device_signs_have_signed_readings() -> None:
    signed, any_integrity = Need.of(spec(sensor=HUMIDITY, integrity="Signed")), Need.of(spec(sensor=HUMIDITY))
    assert misses(signed, candidate()) == ["integrity None, asked Signed"]
    assert misses(signed, candidate(integrity="Signed")) == []
    assert misses(any_integrity, candidate(integrity="Signed")) == []


def test_a_claim_that_says_nothing_asks_for_the_word_of_a_gateway() -> None:
    need = Need.of(SensorClaimSpec.model_validate({"sensor": SensorNeed(type="Humidity"), "endpoints": (ENDPOINT,)}))
    assert misses(need, candidate(tier="Legacy")) == ["trust Legacy, asked at least GatewayVouched"]
    assert misses(need, candidate(tier=None)) == ["trust None, asked at least GatewayVouched"]
    assert misses(need, candidate(tier="GatewayVouched")) == []


def test_a_selector_sees_what_a_device_has_proven() -> None:
    need = Need.of(spec(selector='device.attributes["sensor.fluidos.eu"].application == "wind"'))
    assert misses(need, candidate(tier="Attested", application="wind")) == []
    assert len(misses(need, candidate(tier="Attested", application="rain"))) == 1


def test_an_unavailable_flavor_fails_and_comes_closest() -> None:
    need = Need.of(spec(sensor=HUMIDITY, latency_microseconds={"less_than": 16_000}))
    offers = [candidate("a", latency=16_000), candidate("b", available=False)]
    failed = [(each, outcome) for each in offers if isinstance(outcome := judge(need, each), Fails)]
    assert [each.flavor for each, _ in closest(failed)] == ["b", "a"]


def test_the_closest_are_of_the_right_kind_then_by_failed_limits_then_by_distance() -> None:
    need = Need.of(
        spec(sensor=HUMIDITY, latency_microseconds={"less_than": 16_000}, consumption_microwatts={"at_most": 60})
    )
    offers = [
        candidate("temperature-only", latency=1, measurements=(Measurement(type="Temperature", unit="°C"),)),
        candidate("slow", latency=100_000),
        candidate("slower", latency=200_000),
        candidate("slow-and-hungry", latency=17_000, consumption=61),
        candidate("undeclared", latency=None),
    ]
    failed = [(each, outcome) for each in offers if isinstance(outcome := judge(need, each), Fails)]
    assert [each.flavor for each, _ in closest(failed, n=5)] == [
        "undeclared",
        "slow",
        "slower",
        "slow-and-hungry",
        "temperature-only",
    ]


def test_the_description_names_flavor_provider_model_and_the_failed_limit() -> None:
    need = Need.of(spec(sensor=HUMIDITY, latency_microseconds={"less_than": 16_000}))
    failed = [
        (each, outcome)
        for each in (candidate("f1", latency=25_000), candidate("f2", latency=40_000, provider="provider-2"))
        if isinstance(outcome := judge(need, each), Fails)
    ]
    assert describe(closest(failed)) == (
        "2 flavors came closest: f1 of provider-1 (hts221): latency 25.000 ms, asked < 16.000 ms; "
        "f2 of provider-2 (hts221): latency 40.000 ms, asked < 16.000 ms"
    )
    assert describe(()) == ""


def test_no_provider_steers_a_terminal() -> None:
    outcome = judge(Need.of(spec(sensor={"type": "Pressure"})), hostile := candidate(model="x\x1b[2J\ny"))
    assert isinstance(outcome, Fails)
    assert describe([(hostile, outcome)]).isprintable()


bounds = st.one_of(
    st.builds(lambda n: {"less_than": n}, st.integers(1, 100_000)),
    st.builds(lambda n: {"at_most": n}, numbers),
    st.builds(lambda n: {"greater_than": n}, numbers),
    st.builds(lambda n: {"at_least": n}, numbers),
    st.builds(lambda n, m: {"at_least": min(n, m), "at_most": max(n, m)}, numbers, numbers),
)


@given(bounds, numbers)
def test_limits_mean_what_they_say(bound: dict[str, int], value: int) -> None:
    asked = Bound(**bound)
    holds = (
        (asked.less_than is None or value < asked.less_than)
        and (asked.at_most is None or value <= asked.at_most)
        and (asked.greater_than is None or value > asked.greater_than)
        and (asked.at_least is None or value >= asked.at_least)
    )
    outcome = judge(Need.of(spec(latency_microseconds=bound)), candidate(latency=value))
    assert isinstance(outcome, Fits) is holds
    match outcome:
        case Fits(margin):
            assert 0 <= margin <= 1
        case Fails(found):
            assert len(found) == 1
            assert found[0].distance is not None
            assert found[0].distance > 0


@given(numbers, numbers, st.integers(1, 100_000))
def test_more_headroom_is_never_less_margin(one: int, other: int, limit: int) -> None:
    need = Need.of(spec(latency_microseconds={"at_most": limit}))
    margins = [
        outcome.margin if isinstance(outcome := judge(need, candidate(latency=each)), Fits) else Fraction(-1)
        for each in sorted((one, other))
    ]
    assert margins[0] >= margins[1]
