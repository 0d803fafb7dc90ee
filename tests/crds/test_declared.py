"""Numbers that were declared as integers, written as the fork writes them, and read again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.declared import with_declared
from crds.models.leafdevice import Access, Declared, Measurement, Sensor, SensorTraits
from crds.typedata import characteristics, parse_sensor

UNITS = [("Temperature", "°C"), ("Humidity", "%"), ("Pressure", "hPa"), ("Angle", "deg"), ("Acceleration", "g")]
numbers = st.none() | st.integers(1, 2**40)


@st.composite
def sensors(draw: st.DrawFn) -> SensorTraits:
    kinds = draw(st.lists(st.sampled_from(UNITS), min_size=1, max_size=5, unique=True))
    return SensorTraits(
        uid="1",
        model="m",
        measurements=tuple(
            Measurement(type=kind, unit=unit, accuracy_microunits=draw(numbers)) for kind, unit in kinds
        ),
        latency_microseconds=draw(numbers),
        sampling_rate_millihertz=draw(numbers),
        consumption_microwatts=draw(numbers),
    )


@given(sensors())
@settings(max_examples=100)
def test_no_number_changes_on_its_way_through_a_flavor(traits: SensorTraits) -> None:
    whole = Sensor(**dict(with_declared(traits)), access=Access(topic="t"))
    read = parse_sensor(characteristics(whole, node="n"), field="f").traits
    assert read == with_declared(traits)
    assert read.model_copy(update={"declared": Declared()}) == traits


def test_what_a_source_declared_stays_as_it_is() -> None:
    said = Declared(latency="0.012", latency_unit="s")
    measured = (Measurement(type="Humidity", unit="%"),)
    traits = SensorTraits(uid="1", model="m", measurements=measured, latency_microseconds=12_000, declared=said)
    assert with_declared(traits).declared == said.model_copy(update={"measurement_units": ("%",)})


@pytest.mark.parametrize(("unit", "text"), [("°C", "0.1"), ("mK", "100")])
def test_an_accuracy_is_in_the_unit_of_its_measurement(unit: str, text: str) -> None:
    kind = Measurement(type="Temperature", unit=unit, accuracy_microunits=100_000)
    assert with_declared(SensorTraits(uid="1", model="m", measurements=(kind,))).declared.accuracy == (text,)
