"""The fork's sensor description: byte for byte at the border, integers inside, and every defect named."""

import base64
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.errors import InvalidField
from crds.mcu import mcu_family
from crds.models.fluidos import FlavorSpec, FlavorType, NodeIdentity, Price
from crds.models.leafdevice import Board, Measurement
from crds.sensors_annotation import MAX_ANNOTATION_BYTES, Decoded, decode_annotation
from crds.typedata import DeclaredSensor, characteristics, parse_sensor, sensor_from_flavor

TOPIC = "sensor/00112233FFEE/00140000000111e1ac360002a5d5c51b/hts221"
HTS221: dict[str, Any] = {
    "uid": "31bacf17-f217-a6dd-4f1d-41387c40ddb9",
    "node": "edge-1",
    "name": "",
    "model": "hts221",
    "manufacturer": "STMicroelecronics",
    "market": "Commercial",
    "type": {"sensorCategory": "Environmental", "sensorType": ["Temperature", "Humidity"]},
    "samplingRate": "1",
    "accuracy": ["0.1", "0.5"],
    "consumption": "0.06",
    "latency": "100",
    "properties": {
        "unit": {"measurement": ["°C", "%"], "consumption": "mW", "samplingRate": "Hz", "latency": "ms"},
    },
    "access": {"type": "MQTT", "source": "eventbus-fluidos", "resource": {"topic": TOPIC, "node": "edge-1"}},
}
BARE: dict[str, Any] = {
    "uid": "u-1",
    "model": "class-1",
    "manufacturer": "",
    "type": {"sensorCategory": "Audio", "sensorType": ["Scene"]},
    "access": {"type": "MQTT", "source": "eventbus-fluidos"},
}


def parse(entry: object) -> DeclaredSensor:
    return parse_sensor(entry, field="sensors[0]")


def encoded(entries: object) -> str:
    return base64.b64encode(json.dumps(entries).encode()).decode()


def with_unit(name: str, symbol: object) -> dict[str, Any]:
    return {**HTS221, "properties": {"unit": {**HTS221["properties"]["unit"], name: symbol}}}


def flavor(type_data: dict[str, Any], kind: str = "Sensor") -> FlavorSpec:
    return FlavorSpec(
        provider_id="p",
        flavor_type=FlavorType.model_validate({"typeIdentifier": kind, "typeData": type_data}),
        owner=NodeIdentity(domain="fluidos.eu", node_id="p", ip="10.0.0.1:3004"),
        price=Price(amount="", currency="", period=""),
        availability=True,
    )


def test_the_sample_device_becomes_integers() -> None:
    traits = parse(HTS221).traits
    assert traits.latency_microseconds == 100_000
    assert traits.sampling_rate_millihertz == 1_000
    assert traits.consumption_microwatts == 60
    assert traits.measurements == (
        Measurement(type="Temperature", unit="°C", accuracy_microunits=100_000),
        Measurement(type="Humidity", unit="%", accuracy_microunits=5_000),
    )


def test_what_came_in_goes_out_byte_for_byte() -> None:
    declared = parse(HTS221)
    out = characteristics(declared.at(declared.topic), node=declared.node, board=declared.board)
    assert json.dumps(out) == json.dumps(HTS221)


def test_optional_keys_that_were_absent_stay_absent() -> None:
    sensor = parse(BARE).at("sensor/x")
    assert characteristics(sensor, node="edge-1") == {
        "uid": "u-1",
        "node": "edge-1",
        "name": "",
        "model": "class-1",
        "manufacturer": "",
        "type": {"sensorCategory": "Audio", "sensorType": ["Scene"]},
        "access": {
            "type": "MQTT",
            "source": "eventbus-fluidos",
            "resource": {"topic": "sensor/x", "node": "edge-1"},
        },
    }


@pytest.mark.parametrize("latency", ["16", "16.000", "16.0004", "016", "1.6e1", ".016e3"])
def test_declared_strings_are_repeated_as_they_are(latency: str) -> None:
    out = characteristics(parse({**HTS221, "latency": latency}).at(TOPIC), node="edge-1")
    assert out["latency"] == latency


def test_board_and_sharing_travel_under_additional_properties() -> None:
    additional = {
        "board": "STWIN.box",
        "mcu": "STM32U585AI",
        "mcuFamily": "STM32",
        "maxConsumers": "4",
        "integrity": "Signed",
    }
    entry = {**HTS221, "properties": {**HTS221["properties"], "additional": additional}}
    declared = parse(entry)
    assert declared.board == Board(name="STWIN.box", mcu="STM32U585AI", mcu_family="STM32")
    assert declared.traits.max_consumers == 4
    assert declared.traits.integrity == "Signed"
    out = characteristics(declared.at(TOPIC), node="edge-1", board=declared.board)
    assert json.dumps(out) == json.dumps(entry)


@pytest.mark.parametrize(
    ("mcu", "family"),
    [
        ("STM32U585AI", "STM32"),
        ("stm32l4r9", "STM32"),
        ("nRF52840", "nRF52"),
        ("nRF5340", "nRF53"),
        ("ESP32-C3", "ESP32"),
        ("RP2040", "RP2"),
        ("EFR32MG24", "EFR32"),
        ("ATSAMD21G18", "SAMD"),
        ("SAMPLE", ""),
        ("my STM32", ""),
        ("", ""),
    ],
)
def test_a_part_number_says_its_family_where_that_is_certain(mcu: str, family: str) -> None:
    assert mcu_family(mcu) == family


def test_a_declared_family_counts_where_the_part_number_says_none() -> None:
    additional = {"mcu": "XYZ-1", "mcuFamily": "Xylon"}
    assert parse({**BARE, "properties": {"additional": additional}}).board.mcu_family == "Xylon"


def test_dimensionless_and_categorical_values_need_no_accuracy() -> None:
    entry = {
        **BARE,
        "type": {"sensorCategory": "Audio", "sensorType": ["Scene", "Confidence", "Level"]},
        "accuracy": ["", "0.05", "1"],
        "properties": {"unit": {"measurement": ["class", "", "dB"]}},
    }
    assert parse(entry).traits.measurements == (
        Measurement(type="Scene", unit="class"),
        Measurement(type="Confidence", unit="", accuracy_microunits=50_000),
        Measurement(type="Level", unit="dB", accuracy_microunits=1_000_000),
    )


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (1, "sensors[0]"),
        (None, "sensors[0]"),
        ([], "sensors[0]"),
        ({}, "sensors[0].uid"),
        ({key: value for key, value in HTS221.items() if key != "model"}, "sensors[0].model"),
        ({**HTS221, "uid": ""}, "sensors[0].uid"),
        ({**HTS221, "uid": "u" * 129}, "sensors[0].uid"),
        ({**HTS221, "latency": 100}, "sensors[0].latency"),
        ({**HTS221, "latency": "-1"}, "sensors[0].latency"),
        ({**HTS221, "latency": "1e30"}, "sensors[0].latency"),
        ({**HTS221, "latency": "NaN"}, "sensors[0].latency"),
        ({**HTS221, "latency": ""}, "sensors[0].latency"),
        ({**HTS221, "samplingRate": "0"}, "sensors[0].samplingRate"),
        ({**HTS221, "samplingRate": "0.0009"}, "sensors[0].samplingRate"),
        ({**HTS221, "accuracy": "0.1"}, "sensors[0].accuracy"),
        ({**HTS221, "accuracy": ["0.1", 0.5]}, "sensors[0].accuracy[1]"),
        ({**HTS221, "accuracy": ["0.1", "-0.5"]}, "sensors[0].accuracy[1]"),
        ({**HTS221, "accuracy": ["0.1", "0.5", "1"]}, "sensors[0].accuracy"),
        ({**HTS221, "type": {"sensorCategory": "E", "sensorType": "T"}}, "sensors[0].type.sensorType"),
        ({**HTS221, "type": {"sensorCategory": "E", "sensorType": []}}, "sensors[0].type.sensorType"),
        (with_unit("latency", None), "sensors[0].properties.unit.latency"),
        (with_unit("latency", "msec"), "sensors[0].properties.unit.latency"),
        (with_unit("latency", "Hz"), "sensors[0].properties.unit.latency"),
        (with_unit("samplingRate", "ms"), "sensors[0].properties.unit.samplingRate"),
        (with_unit("measurement", ["°C"]), "sensors[0].properties.unit.measurement[1]"),
        (with_unit("measurement", ["°C", "furlong"]), "sensors[0].properties.unit.measurement[1]"),
        (with_unit("measurement", ["°C", "%", "%"]), "sensors[0].properties.unit.measurement"),
        (with_unit("measurement", ["°C", "class"]), "sensors[0].accuracy[1]"),
        (
            {**BARE, "properties": {"additional": {"maxConsumers": "many"}}},
            "sensors[0].properties.additional.maxConsumers",
        ),
        ({**HTS221, "sampling_rate": "1", "samplingRate": 1}, "sensors[0].samplingRate"),
    ],
)
def test_a_defect_is_refused_by_its_name(entry: object, field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse(entry)
    assert refused.value.field == field


@pytest.mark.parametrize("topic", ["", "sensor/#", "sensor/+/x", "a\x00b", "t" * 513])
def test_readings_appear_at_one_topic(topic: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse(HTS221).at(topic)
    assert refused.value.field == "access.resource.topic"


def test_a_device_without_the_annotation_has_no_sensors() -> None:
    assert decode_annotation(None) == Decoded()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "JSON"),
        ("not base64!", "standard base64"),
        ("YWJj", "JSON"),
        ("////", "JSON"),
        ("°", "standard base64"),
        (encoded({}), "a JSON array"),
        (encoded("text"), "a JSON array"),
        (base64.b64encode(b"[" * 5000).decode(), "JSON"),
        (base64.b64encode(b"[NaN]").decode(), "JSON"),
        ("A" * 2**20, f"{MAX_ANNOTATION_BYTES} bytes"),
        (base64.b64encode(b" " * (MAX_ANNOTATION_BYTES - 1) + b"[]").decode(), f"{MAX_ANNOTATION_BYTES} bytes"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_broken_annotation_is_one_error(text: str, expected: str) -> None:
    decoded = decode_annotation(text)
    assert decoded.sensors == ()
    (error,) = decoded.errors
    assert error.field == "metadata.annotations.sensors"
    assert expected in error.expected
    assert len(str(error)) < 400


def test_lines_of_base64_are_read_as_go_reads_them() -> None:
    lines = base64.encodebytes(json.dumps([HTS221]).encode()).decode().replace("\n", "\r\n")
    assert len(decode_annotation(lines).sensors) == 1


def test_one_bad_entry_hides_none_of_the_others() -> None:
    good, other = HTS221, {**HTS221, "uid": "other"}
    decoded = decode_annotation(encoded([good, 7, {**HTS221, "latency": "x"}, other]))
    assert [sensor.traits.uid for sensor in decoded.sensors] == [good["uid"], "other"]
    assert [error.field for error in decoded.errors] == ["sensors[1]", "sensors[2].latency"]


def test_of_duplicate_uids_the_first_stays_and_the_rest_are_named() -> None:
    decoded = decode_annotation(encoded([HTS221, {**HTS221, "model": "second"}, {**HTS221, "model": "third"}]))
    assert [sensor.traits.model for sensor in decoded.sensors] == ["hts221"]
    assert [error.field for error in decoded.errors] == ["sensors[1].uid", "sensors[2].uid"]


def test_a_refused_entry_does_not_take_the_uid_of_a_good_one() -> None:
    decoded = decode_annotation(encoded([{**HTS221, "latency": "x"}, HTS221]))
    assert len(decoded.sensors) == len(decoded.errors) == 1


def test_more_sensors_than_a_device_may_have_are_refused() -> None:
    decoded = decode_annotation(encoded([{**BARE, "uid": str(number)} for number in range(65)]))
    assert len(decoded.sensors) == 64
    assert [error.expected for error in decoded.errors] == ["at most 64 entries"]


def test_a_flavor_is_read_as_its_device_was() -> None:
    view = sensor_from_flavor(flavor({"characteristics": HTS221}))
    assert view.sensor == parse(HTS221).at(TOPIC)
    assert view.node == "edge-1"
    assert view.board == Board()


@pytest.mark.parametrize("type_data", [{}, {"characteristics": None}, {"characteristics": []}])
def test_a_flavor_that_describes_no_sensor_is_refused(type_data: dict[str, Any]) -> None:
    with pytest.raises(InvalidField, match="typeData"):
        sensor_from_flavor(flavor(type_data))


def test_a_flavor_of_another_type_is_refused() -> None:
    with pytest.raises(InvalidField, match="expected Sensor"):
        sensor_from_flavor(flavor({"characteristics": HTS221}, "K8Slice"))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(entries=JSON | st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(HTS221, JSON)), max_size=3))
def test_arbitrary_json_is_read_or_refused(entries: object) -> None:
    decoded = decode_annotation(base64.b64encode(orjson.dumps(entries)).decode())
    assert decoded.sensors or decoded.errors or entries == []


@given(text=st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()))
def test_arbitrary_text_is_read_or_refused(text: str) -> None:
    decoded = decode_annotation(text)
    assert decoded.errors or base64.b64decode(text).strip() == b"[]"


@given(key=st.sampled_from(list(HTS221)), value=JSON)
def test_any_key_may_hold_anything(key: str, value: object) -> None:
    try:
        declared = parse({**HTS221, key: value})
    except InvalidField as error:
        assert error.field.startswith("sensors[0].")  # noqa: PT017 - most values are refused, some are not
    else:
        # What is not refused goes out as it came in; node and topic are the publisher's, unknown keys are nobody's.
        out = characteristics(declared.at(TOPIC), node="edge-1", board=declared.board)
        if key not in ("node", "access", "properties"):
            assert out.get(key) == value
