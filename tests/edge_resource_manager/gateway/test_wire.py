"""REAR's JSON: read with suspicion, written as fielded nodes expect it."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.errors import InvalidField
from crds.models.configuration import SensorConfiguration, json_schema_text, parse_configuration
from crds.models.fluidos import Flavor
from edge_resource_manager.domain import conversion, wire
from tests.edge_resource_manager.gateway import samples

SCHEMA = Path(__file__).resolve().parents[3] / "docs" / "schemas" / "sensor-configuration.schema.json"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=15,
)


def dumps(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except (orjson.JSONEncodeError, UnicodeEncodeError):  # integers over 64 bits, lone surrogates
        return repr(value).encode(errors="replace")


def test_the_checked_in_schema_is_what_the_model_says() -> None:
    assert SCHEMA.read_text() == json_schema_text(), (
        "write it anew: python -c 'from crds.models.configuration import json_schema_text as t; "
        f'print(t(), end="")\' > {SCHEMA.name}'
    )


@pytest.mark.parametrize(
    ("kind", "data"), [("K8Slice", samples.K8SLICE), ("Service", samples.SERVICE), ("Sensor", None)]
)
def test_a_flavor_survives_the_wire(kind: str, data: dict[str, Any] | None) -> None:
    flavor = Flavor.parse(samples.flavor("f1", namespace="edge", kind=kind, data=data))
    sent = conversion.flavor_to_wire(flavor_id="f1", spec=flavor.spec, timestamp="2026-11-21T12:00:00Z")
    received = wire.parse(wire.Flavor, orjson.dumps(sent.dump()))
    assert received == sent
    assert conversion.flavor_from_wire(received) == flavor.spec


def test_one_bad_entry_of_a_list_hides_none_of_the_others() -> None:
    flavor = Flavor.parse(samples.flavor("f1", namespace="edge"))
    good = conversion.flavor_to_wire(flavor_id="f1", spec=flavor.spec, timestamp="2026-11-21T12:00:00Z").dump()
    found, errors = wire.parse_flavors(orjson.dumps([good, {**good, "flavorID": 7}, "x", good]))
    assert len(found) == 2
    assert [error.field for error in errors] == ["[1].flavorID", "[2]"]


@given(st.binary(max_size=200) | json_values.map(dumps))
def test_parsers_raise_nothing_but_invalid_field(body: bytes) -> None:
    for model in (wire.Flavor, wire.ReservationRequest, wire.PurchaseRequest, wire.Contract, wire.Transaction):
        with suppress(InvalidField):
            wire.parse(model, body)
    for parse in (wire.parse_flavors, wire.parse_event):
        with suppress(InvalidField):
            parse(body)


@given(json_values)
def test_configurations_raise_nothing_but_invalid_field(value: object) -> None:
    with suppress(InvalidField):
        parse_configuration(value)


def test_keys_of_the_fork_and_of_newer_buyers_are_tolerated() -> None:
    data = {**samples.configuration()["data"], "uid": "u", "srate": "1", "extraProperties": {}, "newer": {"x": 1}}
    assert parse_configuration(data) == parse_configuration(samples.configuration()["data"])


CONVERTING = {"name": "a", "url": "http://x/", "shape": {"convert": [{"field": "/t", "to": "furlong"}]}}


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"endpoints": []}, "configuration.data.endpoints"),
        ({"endpoints": [{"name": "a", "url": "ftp://x/"}]}, "configuration.data.endpoints[0].url"),
        ({"endpoints": [{"name": "a", "url": "http://x/"}] * 2}, "configuration.data.endpoints"),
        ({"endpoints": [{"name": "a", "url": "http://user:pw@x/"}]}, "configuration.data.endpoints[0].url"),
        ({"delivery": "ExactlyOnce"}, "configuration.data.delivery"),
        ({"claim": {"name": "x", "namespace": "y"}}, "configuration.data.claim.uid"),
        ({"filter": {"everyNth": 0}}, "configuration.data.filter.everyNth"),
        ({"filter": {"expression": "payload.all(x, true)"}}, "configuration.data.filter.expression"),
        ({"endpoints": [CONVERTING]}, "configuration.data.endpoints[0].shape.convert"),
    ],
)
def test_what_is_wrong_in_a_configuration_is_named(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_configuration({**samples.configuration()["data"], **changed})
    assert caught.value.field == field


def test_a_configuration_is_sent_as_it_was_read() -> None:
    data = {**samples.configuration()["data"], "filter": {"threshold": {"field": "/value", "above": "20.5"}}}
    read = parse_configuration(data)
    assert isinstance(read, SensorConfiguration)
    sent = conversion.configuration_to_wire(read)
    assert parse_configuration(sent.data) == read
