"""Where a device is, and what it becomes."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.models.leafdevice import Update
from edge_resource_manager.adapters.kubeedge import parse_device
from edge_resource_manager.domain.devices import (
    Binding,
    Node,
    NodeMissing,
    NodeNamed,
    NodeSelected,
    NotOffered,
    OnNode,
    Requirement,
    Term,
    Unbound,
    admits,
    describe,
    place,
)
from edge_resource_manager.domain.liveness import NodeReady
from tests.edge_resource_manager.discovery import samples


def node(name: str, *, offers: bool = True, **labels: str) -> Node:
    return Node(name=name, labels={"kubernetes.io/hostname": name, **labels}, offers=offers, health=NodeReady())


def named(*nodes: Node) -> Mapping[str, Node]:
    return {each.name: each for each in nodes}


def selecting(*terms: list[Requirement]) -> NodeSelected:
    return NodeSelected(tuple(Term(labels=tuple(term)) for term in terms))


@pytest.mark.parametrize(
    ("requirement", "met"),
    [
        (Requirement("zone", "In", ("a", "b")), True),
        (Requirement("zone", "In", ("b",)), False),
        (Requirement("none", "In", ("",)), False),
        (Requirement("zone", "NotIn", ("b",)), True),
        (Requirement("zone", "NotIn", ("a",)), False),
        (Requirement("none", "NotIn", ("a",)), True),
        (Requirement("zone", "Exists"), True),
        (Requirement("none", "Exists"), False),
        (Requirement("none", "DoesNotExist"), True),
        (Requirement("zone", "DoesNotExist"), False),
        (Requirement("cores", "Gt", ("3",)), True),
        (Requirement("cores", "Gt", ("4",)), False),
        (Requirement("cores", "Lt", ("5",)), True),
        (Requirement("cores", "Lt", ("4",)), False),
        (Requirement("cores", "Lt", ()), False),
        (Requirement("cores", "Lt", ("5", "6")), False),
        (Requirement("zone", "Gt", ("3",)), False),
        (Requirement("none", "Gt", ("3",)), False),
        (Requirement("zone", "Resembles", ("a",)), False),
    ],
)
def test_requirements_mean_what_they_mean_to_kubernetes(requirement: Requirement, met: bool) -> None:
    assert admits(selecting([requirement]), node("n", zone="a", cores="4")) is met


def test_terms_are_alternatives_and_their_requirements_are_not() -> None:
    zone_a, zone_b = Requirement("zone", "In", ("a",)), Requirement("zone", "In", ("b",))
    assert admits(selecting([zone_b], [zone_a]), node("n", zone="a"))
    assert not admits(selecting([zone_b, zone_a]), node("n", zone="a"))


def test_an_empty_term_and_an_empty_selector_match_nothing() -> None:
    assert not admits(selecting([]), node("n"))
    assert not admits(NodeSelected(()), node("n"))


def test_fields_know_the_name() -> None:
    binding = NodeSelected((Term(fields=(Requirement("metadata.name", "In", ("n",)),)),))
    assert admits(binding, node("n"))
    assert not admits(binding, node("m"))


def test_of_several_nodes_the_present_one_is_kept() -> None:
    binding, nodes = selecting([Requirement("zone", "Exists")]), named(node("c", zone="1"), node("b", zone="2"))
    assert place(binding, nodes=nodes, current=None) == OnNode(nodes["b"])
    assert place(binding, nodes=nodes, current="c") == OnNode(nodes["c"])


@pytest.mark.parametrize("binding", [NodeNamed("n"), selecting([Requirement("kubernetes.io/hostname", "In", ("n",))])])
def test_a_device_is_offered_on_labelled_nodes_and_missed_on_lost_ones(binding: Binding) -> None:
    assert isinstance(place(binding, nodes=named(node("n"), node("m")), current=None), OnNode)
    assert place(binding, nodes=named(node("n", offers=False)), current="n") == NotOffered()
    assert place(binding, nodes=named(node("m")), current=None) == NotOffered()
    assert place(binding, nodes=named(node("m")), current="n") == NodeMissing("n")


def test_a_device_that_moved_is_not_missed_where_it_was() -> None:
    assert place(NodeNamed("elsewhere"), nodes={}, current="n") == NotOffered()
    assert place(Unbound(), nodes=named(node("n")), current="n") == NotOffered()


names = st.sampled_from(["a", "b", "c"])
bindings = st.one_of(
    st.builds(NodeNamed, names),
    st.just(Unbound()),
    st.lists(
        st.lists(
            st.builds(Requirement, names, st.sampled_from(["In", "NotIn", "Exists"]), st.tuples(names)), max_size=2
        ),
        max_size=2,
    ).map(lambda terms: selecting(*terms)),
)
nodes_strategy = st.lists(
    st.builds(
        lambda name, offers, labels: node(name, offers=offers, **labels),
        names,
        st.booleans(),
        st.dictionaries(names, names),
    ),
    unique_by=lambda each: each.name,
).map(lambda each: named(*each))


@given(binding=bindings, nodes=nodes_strategy, current=st.none() | names)
def test_a_place_is_on_a_labelled_node_that_the_binding_admits(
    binding: Binding, nodes: Mapping[str, Node], current: str | None
) -> None:
    match place(binding, nodes=nodes, current=current):
        case OnNode(found):
            assert found.offers
            assert admits(binding, found)
        case NodeMissing(name):
            assert name == current
            assert name not in nodes
            assert not any(each.offers and admits(binding, each) for each in nodes.values())
        case NotOffered():
            assert not any(each.offers and admits(binding, each) for each in nodes.values())


def topics(body: dict[str, Any]) -> list[str]:
    described = describe(parse_device(body), node_name="edge-1")
    assert described.errors == ()
    return [sensor.access.topic for sensor in described.spec.sensors]


@pytest.mark.parametrize("make", [samples.device, samples.old_device])
def test_bluetooth_sensors_have_the_forks_topic_whatever_the_annotation_says(make: Any) -> None:
    assert topics(make("d")) == [samples.TOPIC, samples.TOPIC.replace("hts221", "ilps22qs")]


def test_a_sensor_has_the_characteristic_of_its_own_category_or_else_of_the_first() -> None:
    motion = {**samples.PRESSURE, "uid": "m", "type": {"sensorCategory": "Motion", "sensorType": ["Pressure"]}}
    light = {**samples.PRESSURE, "uid": "l", "type": {"sensorCategory": "Light", "sensorType": ["Pressure"]}}
    properties = [
        {"name": name, "visitors": {"configData": {"characteristicUUID": uuid}}}
        for name, uuid in (("ENVIRONMENTAL", "e1"), ("motion", "f2"))
    ]
    body = samples.device("d", sensors=samples.packed(samples.HUMIDITY, motion, light), spec={"properties": properties})
    assert [topic.split("/")[2] for topic in topics(body)] == ["e1", "f2", "e1"]
    assert topics(samples.device("d", spec={"properties": []}))[0] == "sensor/00112233FFEE//hts221"


def test_sensors_of_other_devices_have_the_topic_that_they_name_or_one_of_their_own() -> None:
    silent = {**samples.HUMIDITY, "access": {"type": "MQTT", "source": "eventbus-fluidos"}}
    body = samples.device(
        "d", sensors=samples.packed(silent, samples.PRESSURE), spec={"protocol": {"protocolName": "usb"}}
    )
    assert topics(body) == [f"sensor/d/{samples.HUMIDITY['uid']}/hts221", "sensors/CBB8C21519EF/0014/hts221"]


def test_topics_carry_the_namespace_where_the_device_says_so() -> None:
    body = samples.device("d", annotations={"edge.fluidos.eu/topics": "Namespaced"})
    assert topics(body)[0] == f"{body['metadata']['namespace']}/{samples.TOPIC}"
    wrong = describe(
        parse_device(samples.device("d", annotations={"edge.fluidos.eu/topics": "mine"})), node_name="edge-1"
    )
    assert wrong.spec.sensors == ()
    assert "expected Plain or Namespaced" in str(wrong.errors[0])


def test_a_bad_entry_hides_no_other_and_is_named() -> None:
    wild = {**samples.PRESSURE, "uid": "w", "model": "a+b"}
    numeric = {**samples.PRESSURE, "uid": "n", "latency": 100}
    body = samples.device("d", sensors=samples.packed(samples.HUMIDITY, numeric, wild))
    described = describe(parse_device(body), node_name="edge-1")
    assert [sensor.model for sensor in described.spec.sensors] == ["hts221"]
    assert [error.field for error in described.errors] == ["sensors[1].latency", "sensors[uid w].access.resource.topic"]


def test_board_and_sharing_come_from_the_first_sensor_that_says_so_or_else_from_the_device() -> None:
    hints = {
        "edge.fluidos.eu/board": "B-L475E",
        "edge.fluidos.eu/mcu": "STM32L475",
        "edge.fluidos.eu/max-consumers": "3",
    }
    told = {
        **samples.PRESSURE,
        "properties": {**samples.PRESSURE["properties"], "additional": {"board": "SensorTile", "maxConsumers": "5"}},
    }
    described = describe(
        parse_device(samples.device("d", sensors=samples.packed(samples.HUMIDITY, told), annotations=hints)),
        node_name="edge-1",
    )
    assert described.errors == ()
    assert described.spec.board.dump() == {"name": "SensorTile", "mcu": "STM32L475", "mcuFamily": "STM32"}
    assert [sensor.max_consumers for sensor in described.spec.sensors] == [3, 5]


def test_a_device_says_how_firmware_gets_into_it() -> None:
    hint = {"edge.fluidos.eu/update": '{"protocol": "MCUmgrSerial", "address": "/dev/ttyACM0", "baudRate": 115200}'}
    described = describe(parse_device(samples.device("d", annotations=hint)), node_name="edge-1")
    assert described.errors == ()
    assert described.spec.update == Update(protocol="MCUmgrSerial", address="/dev/ttyACM0", baud_rate=115200)
    assert describe(parse_device(samples.device("d")), node_name="edge-1").spec.update is None


def test_readings_are_signed_by_devices_that_can_prove_themselves_and_by_no_others() -> None:
    told = {**samples.PRESSURE, "properties": {**samples.PRESSURE["properties"], "additional": {"integrity": "Signed"}}}
    sensors, ueid = samples.packed(samples.HUMIDITY, told), {"edge.fluidos.eu/ueid": "01" + "ab" * 16}
    signing = describe(parse_device(samples.device("d", sensors=sensors, annotations=ueid)), node_name="edge-1")
    assert [sensor.integrity for sensor in signing.spec.sensors] == ["None", "Signed"]
    unproven = describe(parse_device(samples.device("d", sensors=sensors)), node_name="edge-1")
    assert [sensor.integrity for sensor in unproven.spec.sensors] == ["None"]
    (error,) = unproven.errors
    assert error.field == f"sensors[uid {told['uid']}].properties.additional.integrity"


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        ("max-consumers", "many"),
        ("max-consumers", "0"),
        ("board", "x" * 200),
        ("mcu", "x" * 200),
        ("update", "udp://10.0.0.7:1337"),
        ("update", '{"protocol": "MCUmgrUDP", "address": "/dev/ttyACM0"}'),
        ("update", '{"protocol": "MCUmgrBLE", "address": "c0:ff:ee:00:11:22", "baudRate": 9600}'),
    ],
)
def test_a_hint_that_makes_no_sense_is_named_and_withdraws_no_sensor(hint: str, value: str) -> None:
    body = samples.device("d", annotations={f"edge.fluidos.eu/{hint}": value})
    described = describe(parse_device(body), node_name="edge-1")
    assert len(described.spec.sensors) == 2
    assert len(described.errors) == 1


@given(text=st.text(max_size=200) | st.binary(max_size=50).map(lambda raw: raw.hex()))
def test_no_annotation_breaks_a_device(text: str) -> None:
    describe(parse_device(samples.device("d", sensors=text)), node_name="edge-1")
