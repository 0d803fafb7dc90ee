"""What contracts become, and what routes resolve to."""

from typing import Any

import pytest

from crds.annotations import BUYER_SPIFFE_ID
from crds.egress import EgressPolicy
from crds.kube.watch import Gone, Put
from crds.models.dataroute import DataRoute, RelayReport
from crds.models.fluidos import Contract, Flavor
from crds.models.leafdevice import LeafDevice
from router_manager.catalog import Catalog
from router_manager.domain.measuring import delivering
from router_manager.domain.routes import (
    NotRouted,
    Offered,
    Resolution,
    offered,
    offered_without_flavor,
    resolve,
    route_of,
)
from tests.router_manager import samples

NOWHERE_SPECIAL = EgressPolicy()
NO_CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"


def stored(obj: dict[str, Any]) -> dict[str, Any]:
    return {**obj, "metadata": {**obj["metadata"], "uid": "u-1", "generation": 1}}


def offers(*flavors: dict[str, Any]) -> dict[str, Offered]:
    found = [offered(Flavor.parse(stored(one))) for one in flavors]
    return {one.name: one for one in found if one is not None}


def verdict(resolution: Resolution, kind: str) -> tuple[str, str, str]:
    [found] = [one for one in resolution.verdicts if one.type == kind]
    return found.status, found.reason, found.message


def test_a_contract_becomes_a_route_of_the_same_name_that_it_owns() -> None:
    flavor = samples.flavor("f1", namespace="ns")
    contract = Contract.parse(stored(samples.contract("contract-1", namespace="ns", flavor=flavor)))
    made = route_of(contract, insecure=True)
    assert isinstance(made, DataRoute)
    assert (made.metadata.name, made.metadata.namespace) == ("contract-1", "ns")
    assert made.metadata.owner_references[0].uid == "u-1"
    assert made.spec.source.flavors == ("f1",)
    assert [target.location for target in made.spec.targets] == ["http://192.0.2.7:4487/t"]


def test_a_contract_about_something_else_is_left_alone_in_silence() -> None:
    flavor = samples.flavor("f1", namespace="ns")
    flavor["spec"]["flavorType"] = {"typeIdentifier": "K8Slice", "typeData": {}}
    contract = Contract.parse(stored(samples.contract("c", namespace="ns", flavor=flavor)))
    assert route_of(contract, insecure=False) == NotRouted(why=None)


@pytest.mark.parametrize(
    ("delivery", "topic", "engine"),
    [("BestEffort", "ns/f1", "KubeEdge"), ("AtLeastOnce", "ns/f1", "Relay"), ("BestEffort", "sensor/f1", "Relay")],
)
def test_kubeedges_router_is_for_buyers_who_ask_for_no_promise_and_for_topics_that_it_knows(
    delivery: str, topic: str, engine: str
) -> None:
    flavor = samples.flavor("f1", namespace="ns", topic=topic)
    contract = Contract.parse(stored(samples.contract("c", namespace="ns", flavor=flavor, delivery=delivery)))
    made = route_of(contract, insecure=True, best_effort="KubeEdge")
    assert isinstance(made, DataRoute)
    assert (made.spec.engine, made.spec.delivery) == (engine, delivery)


def forwarded_by_kubeedge(topic: str, *, forwards: bool) -> Resolution:
    raw = samples.route("r", namespace="ns", source={"flavors": ["f1"]}, engine="KubeEdge", delivery="BestEffort")
    flavors = offers(samples.flavor("f1", namespace="ns", topic=topic))
    return resolve(DataRoute.parse(raw), flavors=flavors, policy=NOWHERE_SPECIAL, insecure=True, forwards=forwards)


def test_a_route_by_kubeedge_needs_an_inlet_and_a_topic_below_its_namespace() -> None:
    assert forwarded_by_kubeedge("ns/f1", forwards=True).sources
    assert verdict(forwarded_by_kubeedge("ns/f1", forwards=False), "Accepted")[:2] == ("False", "NoInlet")
    stray = forwarded_by_kubeedge("sensor/f1", forwards=True)
    assert stray.sources == ()
    assert verdict(stray, "SourcesResolved")[:2] == ("False", "TopicNotForwardable")
    assert "topics ns/a/b alone, not sensor/f1" in verdict(stray, "Ready")[2]


def bought_by(buyer: str | None) -> Contract:
    raw = stored(samples.contract("contract-1", namespace="ns", flavor=samples.flavor("f1", namespace="ns")))
    if buyer is not None:
        raw["metadata"]["annotations"] = {BUYER_SPIFFE_ID: buyer}
    return Contract.parse(raw)


def test_the_targets_of_a_contract_are_endpoints_of_the_buyers_trust_domain() -> None:
    made = route_of(bought_by("spiffe://consumer.test/manager/edge-resource-manager"), insecure=False)
    assert isinstance(made, DataRoute)
    assert made.spec.trust_domain == "consumer.test"


@pytest.mark.parametrize(
    ("buyer", "why"), [(None, "has not proven who it is"), ("consumer.test", "expected spiffe://<trust domain>/<path>")]
)
def test_a_contract_of_a_buyer_who_proved_nothing_is_not_routed(buyer: str | None, why: str) -> None:
    refused = route_of(bought_by(buyer), insecure=False)
    assert isinstance(refused, NotRouted)
    assert refused.why is not None
    assert why in refused.why


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({}, "spec.configuration.data.claim"),
        ({"claim": {"name": "a", "namespace": "b", "uid": "c"}, "endpoints": []}, "spec.configuration.data.endpoints"),
        (
            {"claim": {"name": "a", "namespace": "b", "uid": "c"}, "endpoints": [{"name": "x", "url": "ftp://a"}]},
            "spec.configuration.data.endpoints[0].url",
        ),
    ],
)
def test_a_contract_that_cannot_be_routed_says_which_field_is_wrong(data: dict[str, Any], field: str) -> None:
    contract = samples.contract("c", namespace="ns", flavor=samples.flavor("f1", namespace="ns"))
    contract["spec"]["configuration"]["data"] = data
    refused = route_of(Contract.parse(stored(contract)), insecure=True)
    assert isinstance(refused, NotRouted)
    assert refused.why is not None
    assert refused.why.startswith(field + ":")


def test_a_route_reads_the_flavors_that_it_names() -> None:
    route = DataRoute.parse(samples.route("r", namespace="ns", source={"flavors": ["f1"]}))
    found = resolve(route, flavors=offers(samples.flavor("f1", namespace="ns")), policy=NOWHERE_SPECIAL, insecure=True)
    assert [(one.flavor, one.node, one.topic, one.unit) for one in found.sources] == [
        ("f1", "edge-1", "sensor/f1", "%")
    ]
    assert verdict(found, "Ready")[:2] == ("True", "Ready")


def test_a_selector_follows_what_the_flavors_are() -> None:
    route = DataRoute.parse(
        samples.route(
            "r",
            namespace="ns",
            source={"selector": 'device.attributes["sensor.fluidos.eu"].latencyMicros < 16000'},
        )
    )
    flavors = offers(samples.flavor("fast", namespace="ns"), samples.flavor("slow", namespace="ns", latency="16"))
    assert [one.flavor for one in resolve(route, flavors=flavors, policy=NOWHERE_SPECIAL, insecure=True).sources] == [
        "fast"
    ]


def test_a_selector_can_ask_for_trust() -> None:
    selector = 'device.attributes["sensor.fluidos.eu"].trustTier == "Attested"'
    route = DataRoute.parse(samples.route("r", namespace="ns", source={"selector": selector}))
    trusted = samples.flavor("trusted", namespace="ns")
    properties = trusted["spec"]["flavorType"]["typeData"]["characteristics"]["properties"]
    properties["additional"] = {"trustTier": "Attested"}
    flavors = offers(trusted, samples.flavor("other", namespace="ns"))
    found = resolve(route, flavors=flavors, policy=EgressPolicy(plain_http=True), insecure=False)
    assert [one.flavor for one in found.sources] == ["trusted"]


def test_a_missing_flavor_is_named_and_the_others_still_flow() -> None:
    route = DataRoute.parse(samples.route("r", namespace="ns", source={"flavors": ["f1", "gone"]}))
    found = resolve(route, flavors=offers(samples.flavor("f1", namespace="ns")), policy=NOWHERE_SPECIAL, insecure=True)
    assert [one.flavor for one in found.sources] == ["f1"]
    assert verdict(found, "SourcesResolved")[:2] == ("False", "FlavorMissing")
    assert "gone" in verdict(found, "SourcesResolved")[2]


@pytest.mark.parametrize(
    ("source", "url", "reason"),
    [
        ({"selector": "device.nope <"}, "http://192.0.2.7/", "InvalidSelector"),
        ({"selector": "1 + 1"}, "http://192.0.2.7/", "InvalidSelector"),
        ({"flavors": ["f1"]}, "http://127.0.0.1:8080/", "EgressRefused"),
        ({"flavors": ["f1"]}, "http://[::ffff:169.254.169.254]/", "EgressRefused"),
        ({"flavors": ["f1"]}, "http://192.0.2.7:99999/", "EgressRefused"),
    ],
)
def test_a_route_that_cannot_work_reads_nothing_and_says_why(source: dict[str, Any], url: str, reason: str) -> None:
    route = DataRoute.parse(samples.route("r", namespace="ns", source=source, url=url))
    found = resolve(route, flavors=offers(samples.flavor("f1", namespace="ns")), policy=NOWHERE_SPECIAL, insecure=True)
    assert found.sources == ()
    assert verdict(found, "Accepted")[:2] == ("False", reason)
    assert verdict(found, "Ready")[0] == "False"


SHAPES = {"convert": [{"field": "/humidity", "to": "1"}]}


def shaping(flavors: list[dict[str, Any]], **spec: Any) -> Resolution:
    raw = samples.route("r", namespace="ns", source={"selector": "true"})
    raw["spec"] |= spec
    raw["spec"]["targets"][0] |= {"shape": spec.pop("shape", SHAPES)}
    return resolve(DataRoute.parse(raw), flavors=offers(*flavors), policy=NOWHERE_SPECIAL, insecure=True)


def test_a_sensor_that_signs_is_not_reshaped_and_the_others_flow() -> None:
    signing = samples.flavor("signing", namespace="ns")
    properties = signing["spec"]["flavorType"]["typeData"]["characteristics"]["properties"]
    properties["additional"] = {"integrity": "Signed"}
    found = shaping([signing, samples.flavor("plain", namespace="ns")])
    assert [one.flavor for one in found.sources] == ["plain"]
    status, reason, message = verdict(found, "SourcesResolved")
    assert (status, reason) == ("False", "NotShapeable")
    assert message.startswith("signing: spec.targets[")
    assert "signed" in message
    assert verdict(shaping([signing]), "Ready")[:2] == ("False", "NotShapeable")


def test_a_unit_that_the_sensor_has_not_is_named() -> None:
    found = shaping([samples.flavor("f1", namespace="ns")], shape={"convert": [{"field": "/t", "to": "K"}]})
    assert found.sources == ()
    assert "convert[/t].to: 'K' is not valid" in verdict(found, "SourcesResolved")[2]


def test_an_expression_that_is_none_is_not_accepted() -> None:
    found = shaping([samples.flavor("f1", namespace="ns")], filter={"expression": "payload.x.all(i, true)"})
    assert verdict(found, "Accepted")[:2] == ("False", "InvalidExpression")


def test_a_suspended_route_reads_nothing() -> None:
    raw = samples.route("r", namespace="ns", source={"flavors": ["f1"]})
    raw["spec"]["suspend"] = True
    route, flavors = DataRoute.parse(raw), offers(samples.flavor("f1", namespace="ns"))
    found = resolve(route, flavors=flavors, policy=NOWHERE_SPECIAL, insecure=True)
    assert found.sources == ()
    assert verdict(found, "Ready")[:2] == ("False", "Suspended")


KAFKA = {"bootstrapServers": ["k:9092", "l:9092"], "topic": "readings"}


def influx(url: str) -> dict[str, str]:
    return {"url": url, "version": "V1", "database": "plant"}


def mqtt(url: str) -> dict[str, str]:
    return {"url": url, "topic": "plant/{topic}"}


def to_target(**target: object) -> DataRoute:
    raw = samples.route("r", namespace="ns", source={"flavors": ["f1"]})
    raw["spec"]["targets"] = [{"name": "telegraf", **target}]
    return DataRoute.parse(raw)


@pytest.mark.parametrize(
    ("target", "policy", "accepted", "reason"),
    [
        ({"url": "https://192.0.2.7/"}, NOWHERE_SPECIAL, "True", "Accepted"),
        ({"url": "http://192.0.2.7/"}, NOWHERE_SPECIAL, "False", "PlainHTTP"),
        ({"url": "http://192.0.2.7/"}, EgressPolicy(plain_http=True), "True", "Accepted"),
        ({"url": "https://192.0.2.7/", "caBundle": NO_CERTIFICATE}, NOWHERE_SPECIAL, "False", "InvalidCABundle"),
        ({"influxDB": influx("https://192.0.2.7")}, NOWHERE_SPECIAL, "True", "Accepted"),
        ({"influxDB": influx("https://127.0.0.1")}, NOWHERE_SPECIAL, "False", "EgressRefused"),
        ({"influxDB": influx("http://192.0.2.7")}, NOWHERE_SPECIAL, "False", "PlainHTTP"),
        ({"mqtt": mqtt("mqtts://192.0.2.7")}, NOWHERE_SPECIAL, "True", "Accepted"),
        ({"mqtt": mqtt("mqtts://[::1]:8883")}, NOWHERE_SPECIAL, "False", "EgressRefused"),
        ({"mqtt": mqtt("mqtt://192.0.2.7")}, NOWHERE_SPECIAL, "False", "PlainHTTP"),
        ({"kafka": KAFKA}, NOWHERE_SPECIAL, "False", "EgressRefused"),
        ({"kafka": KAFKA}, EgressPolicy(kafka=frozenset({"k:9092"})), "False", "EgressRefused"),
        ({"kafka": KAFKA}, EgressPolicy(kafka=frozenset({"k:9092", "l:9092"})), "True", "Accepted"),
    ],
)
def test_with_identities_a_target_has_to_be_able_to_prove_itself(
    target: dict[str, object], policy: EgressPolicy, accepted: str, reason: str
) -> None:
    flavors = offers(samples.flavor("f1", namespace="ns"))
    found = resolve(to_target(**target), flavors=flavors, policy=policy, insecure=False)
    assert verdict(found, "Accepted")[:2] == (accepted, reason)
    assert bool(found.sources) == (accepted == "True")
    assert "Insecure" not in [one.type for one in found.verdicts]


def test_a_target_that_may_be_without_tls_is_named() -> None:
    flavors = offers(samples.flavor("f1", namespace="ns"))
    found = resolve(
        to_target(url="http://192.0.2.7/"), flavors=flavors, policy=EgressPolicy(plain_http=True), insecure=False
    )
    assert verdict(found, "Accepted")[2] == "plain HTTP or MQTT, so nobody proves to be the target: telegraf"


def test_without_identities_every_status_says_so() -> None:
    flavors = offers(samples.flavor("f1", namespace="ns"))
    for route in (to_target(url="http://192.0.2.7/"), to_target(url="http://127.0.0.1/")):
        found = resolve(route, flavors=flavors, policy=NOWHERE_SPECIAL, insecure=True)
        assert verdict(found, "Insecure")[:2] == ("True", "InsecureMode")


def refused_leaf(*, published: str, reason: str = "FlavorRefused") -> LeafDevice:
    condition = {
        "type": "FlavorPublished",
        "status": published,
        "reason": reason,
        "message": "",
        "lastTransitionTime": "2026-11-21T12:00:00Z",
    }
    return LeafDevice.parse(
        {
            "metadata": {"name": "board-1", "namespace": "ns", "uid": "u-2"},
            "spec": {
                "nodeName": "edge-1",
                "source": {"kind": "KubeEdgeDevice", "apiVersion": "devices.kubeedge.io/v1beta1", "name": "board"},
                "sensors": [
                    {
                        "uid": "s-1",
                        "model": "hts221",
                        "measurements": [{"type": "Humidity", "unit": "%"}],
                        "access": {"topic": "sensor/board/s-1"},
                    }
                ],
            },
            "status": {"conditions": [condition], "offers": [{"sensor": "s-1", "flavor": "fluidos.eu-sensor-x"}]},
        }
    )


def test_a_sensor_whose_flavor_a_webhook_refused_is_routed_all_the_same() -> None:
    route = DataRoute.parse(samples.route("r", namespace="ns", source={"flavors": ["fluidos.eu-sensor-x"]}))
    flavors = {each.name: each for each in offered_without_flavor(refused_leaf(published="False"))}
    [source] = resolve(route, flavors=flavors, policy=NOWHERE_SPECIAL, insecure=True).sources
    assert (source.node, source.topic, source.device) == ("edge-1", "sensor/board/s-1", "board-1")
    assert offered_without_flavor(refused_leaf(published="True")) == []
    assert offered_without_flavor(refused_leaf(published="False", reason="NotTrusted")) == []


def test_the_catalog_names_what_a_change_concerns_and_nothing_else() -> None:
    catalog = Catalog()
    leaf = refused_leaf(published="False")
    raw = leaf.dump()
    assert catalog.leaf_seen(Put(("ns", "board-1"), raw)) == {"fluidos.eu-sensor-x"}
    assert catalog.leaf_seen(Put(("ns", "board-1"), raw)) == frozenset()
    flavor = stored(samples.flavor("f1", namespace="ns"))
    assert catalog.flavor_seen(Put(("ns", "f1"), flavor)) == {"f1"}
    assert catalog.of("ns").keys() == {"f1", "fluidos.eu-sensor-x"}
    assert catalog.leaf_seen(Gone(("ns", "board-1"))) == {"fluidos.eu-sensor-x"}
    assert catalog.flavor_seen(Put(("ns", "f1"), {**flavor, "spec": {}})) == {"f1"}
    assert dict(catalog.of("ns")) == {}


def test_the_catalog_is_sure_of_what_it_has_seen_come_and_go() -> None:
    catalog = Catalog()
    leaf = refused_leaf(published="True")
    flavor = samples.flavor("f1", namespace="ns")
    route = DataRoute.parse(samples.route("r", namespace="ns", source={"flavors": ["f1"]}))
    [source] = resolve(route, flavors=offers(flavor), policy=NOWHERE_SPECIAL, insecure=True).sources
    source = source.model_copy(update={"device": "board-1"})
    catalog.flavor_seen(Gone(("ns", "f1")))
    assert not catalog.is_sure_of(source, namespace="ns"), "its LeafDevice may stand in for it"
    catalog.leaf_seen(Put(("ns", "board-1"), {**leaf.manifest(), "status": leaf.dump()["status"]}))
    assert catalog.is_sure_of(source, namespace="ns")
    assert not catalog.is_sure_of(source, namespace="other")


def test_a_route_says_whether_a_relay_has_trouble() -> None:
    well, ill = RelayReport(node="edge-1"), RelayReport(node="edge-2", message="the disk is full")
    assert delivering([]) == ()
    assert [(one.status, one.message) for one in delivering([well])] == [("True", "")]
    assert [(one.status, one.message) for one in delivering([well, ill])] == [("False", "edge-2: the disk is full")]
