"""The selector language says what DRA's says; egress lets nothing special through."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.egress import EgressPolicy, host_and_port
from crds.errors import InvalidField
from crds.models.leafdevice import Access, Board, Measurement, Sensor
from crds.selector import Matched, NotMatched, attributes, compile_selector, device
from crds.typedata import FlavorTrust

HUMIDITY = Sensor(
    uid="u-1",
    model="hts221",
    manufacturer="STMicroelectronics",
    category="Environmental",
    measurements=(
        Measurement(type="Temperature", unit="°C", accuracy_microunits=500_000),
        Measurement(type="Relative Humidity", unit="%", accuracy_microunits=5_000),
    ),
    latency_microseconds=16_000,
    access=Access(topic="sensor/a"),
)
FOUND = attributes(sensor=HUMIDITY, board=Board(name="STWIN.box", mcu_family="STM32"), node="edge-1", cluster="p1")


def judge(expression: str) -> Matched | NotMatched:
    return compile_selector(expression).match(device(FOUND))


@pytest.mark.parametrize(
    ("expression", "matches"),
    [
        ('device.attributes["sensor.fluidos.eu"].latencyMicros < 16000', False),
        ('device.attributes["sensor.fluidos.eu"].latencyMicros <= 16000', True),
        ('device.attributes["sensor.fluidos.eu"].mcuFamily == "STM32"', True),
        ('device.attributes["sensor.fluidos.eu"].measuresRelativeHumidity', True),
        ('device.attributes["sensor.fluidos.eu"].accuracyMicrosRelativeHumidity <= 5000', True),
        ('device.attributes["sensor.fluidos.eu"].?samplingMillihertz.orValue(0) == 0', True),
        ('device.attributes["sensor.fluidos.eu"].trustTier == "None"', True),
        ('device.attributes["sensor.fluidos.eu"].integrity == "None"', True),
        ('device.attributes["sensor.fluidos.eu"].?spiffeID.orValue("") == ""', True),
        ('device.driver == "sensor.fluidos.eu"', True),
        ('cel.bind(s, device.attributes["sensor.fluidos.eu"], s.latencyMicros > 1 && s.node == "edge-1")', True),
    ],
)
def test_expressions_mean_what_they_mean_to_the_scheduler(expression: str, matches: bool) -> None:
    assert isinstance(judge(expression), Matched) is matches


def test_a_selector_can_ask_who_a_device_is_and_what_it_runs() -> None:
    trust = FlavorTrust(tier="Attested", spiffe_id="spiffe://p/device/01/app/wind", application="wind")
    found = attributes(sensor=HUMIDITY, board=Board(), node="edge-1", cluster="p1", trust=trust)
    expression = """cel.bind(s, device.attributes["sensor.fluidos.eu"],
        s.trustTier == "Attested" && s.spiffeID.startsWith("spiffe://p/device/") && s.application == "wind")"""
    assert compile_selector(expression).match(device(found)) == Matched()
    assert compile_selector(expression).match(device(FOUND)) != Matched()


def test_an_attribute_that_a_device_has_not_declared_refuses_that_device_and_says_so() -> None:
    judged = judge('device.attributes["sensor.fluidos.eu"].samplingMillihertz > 10')
    assert isinstance(judged, NotMatched)
    assert "samplingMillihertz" in judged.why


def test_a_runaway_expression_is_stopped() -> None:
    numbers = "[" + ",".join(["1"] * 100) + "]"
    judged = judge(f"{numbers}.all(a, {numbers}.all(b, {numbers}.all(c, {numbers}.all(d, a + b + c + d > 0))))")
    assert isinstance(judged, NotMatched)
    assert "udget" in judged.why


@pytest.mark.parametrize(
    "expression", ["1 +", "nothing > 1", "1 + 1", "'a'", "device.attributes.x(", "\x00", "(" * 4000]
)
def test_what_cannot_be_compiled_is_refused_with_its_field(expression: str) -> None:
    with pytest.raises(InvalidField, match=r"^spec\.selector: "):
        compile_selector(expression, field="spec.selector")


@given(st.text(max_size=60))
def test_any_text_compiles_or_is_refused(expression: str) -> None:
    try:
        judged = compile_selector(expression).match(device(FOUND))
    except InvalidField:
        return
    assert isinstance(judged, Matched | NotMatched)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "::", "169.254.169.254", "fe80::1", "224.0.0.1", "ff02::1",
        "255.255.255.255", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "10.96.0.1",
    ],
)  # fmt: skip
def test_special_and_refused_addresses_are_refused(address: str) -> None:
    policy = EgressPolicy.parse(refused=["10.96.0.0/16"])
    assert policy.refusal(ip_address(address)) is not None


@pytest.mark.parametrize("address", ["192.0.2.7", "10.0.2.70", "172.19.0.4", "2001:db8::1"])
def test_ordinary_addresses_pass(address: str) -> None:
    assert EgressPolicy.parse(refused=["10.96.0.0/16"]).refusal(ip_address(address)) is None


def test_what_is_allowed_wins() -> None:
    assert EgressPolicy.parse(allowed=["127.0.0.0/8"]).refusal(ip_address("127.0.0.1")) is None
    assert EgressPolicy.parse(allowed=["127.0.0.0/8"]).refusal(ip_address("::1")) is not None


@pytest.mark.parametrize("url", ["http://", "ftp://a/b", "http://u:p@a/", "http://a:99999/", "a", "http://[::1/", ""])
def test_urls_that_name_no_host_are_refused(url: str) -> None:
    with pytest.raises(InvalidField, match="url"):
        host_and_port(url)


def test_host_and_port_of_an_ordinary_url() -> None:
    assert host_and_port("https://[2001:db8::1]/x") == ("2001:db8::1", 443)
    assert host_and_port("http://telegraf.site:4487/t?a=b") == ("telegraf.site", 4487)
