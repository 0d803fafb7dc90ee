"""Discovery against a real API server: Devices, Nodes and people change things, LeafDevices and Flavors follow."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from crds.kube.client import Kind, Kube
from crds.kube.watch import Put
from crds.models.fluidos import Flavor
from crds.models.leafdevice import LeafDevice
from scripts.testbed.controlplane import ControlPlanes
from scripts.testbed.manifests import install
from tests.edge_resource_manager.discovery import samples
from tests.edge_resource_manager.discovery.conftest import Clock, Site, characteristics, condition, eventually
from tests.edge_resource_manager.discovery.states import (
    events,
    idle,
    label,
    nothing,
    offered,
    ready,
)


async def test_every_device_of_every_labelled_node_is_offered_once(site: Site) -> None:
    first, second, other = site.node(), site.node(), site.node(offers=False)
    async with site.discovery():
        site.apply(
            samples.device("a", namespace=site.namespace, node=first),
            samples.device("b", namespace=site.namespace, node=second),
            samples.device("c", namespace=site.namespace, node=other),
            samples.device("d", namespace=site.namespace, node=None),
        )
        flavors = await site.until(lambda leaves, flavors: ready(leaves, "a", "b") and len(flavors) == 4)
        leaves = await site.leaves()
    assert {name: leaf.spec.node_name for name, leaf in leaves.items()} == {"a": first, "b": second}
    assert sorted(characteristics(flavor)["node"] for flavor in flavors) == sorted([first, first, second, second])
    assert condition(leaves["a"], "Online") == ("Unknown", "NoReport")
    status = leaves["a"].status
    assert status is not None
    owned = {
        flavor.metadata.name
        for flavor in flavors
        if flavor.metadata.owner_references[0].name == leaves["a"].metadata.name
    }
    assert {offer.flavor for offer in status.offers} == owned
    assert leaves["a"].metadata.owner_references[0].kind == "Device"


async def test_a_changed_annotation_changes_what_is_offered_and_nothing_else(site: Site) -> None:
    node = site.node()
    slow = {**samples.HUMIDITY, "latency": "25"}
    async with site.discovery():
        site.apply(samples.device("board", namespace=site.namespace, node=node))
        before = {characteristics(flavor)["model"]: flavor for flavor in await site.until(offered)}
        site.apply(samples.device("board", namespace=site.namespace, node=node, sensors=samples.packed(slow)))
        (after,) = await site.until(lambda _, flavors: [characteristics(each)["latency"] for each in flavors] == ["25"])
    assert after.metadata.uid == before["hts221"].metadata.uid


async def test_a_deleted_device_takes_its_flavors_with_it(site: Site) -> None:
    async with site.discovery():
        site.apply(samples.device("board", namespace=site.namespace, node=site.node()))
        await site.until(offered)
        await site.delete("board")
        await site.until(nothing)


async def test_a_device_that_moves_is_offered_where_it_is(site: Site) -> None:
    first, second, bare = site.node(), site.node(), site.node(offers=False)
    async with site.discovery():
        site.apply(samples.device("board", namespace=site.namespace, node=first))
        before = await site.until(offered)
        site.apply(samples.device("board", namespace=site.namespace, node=second))
        after = await site.until(
            lambda _, flavors: [characteristics(each)["access"]["resource"]["node"] for each in flavors] == [second] * 2
        )
        assert [flavor.metadata.uid for flavor in after] == [flavor.metadata.uid for flavor in before]
        site.apply(samples.device("board", namespace=site.namespace, node=bare))
        await site.until(nothing)


async def test_reports_cost_one_write_a_minute_at_most(site: Site) -> None:
    key = (site.namespace, "board")
    body = samples.device("board", namespace=site.namespace, node=site.node())

    def report() -> dict[str, Any]:
        metadata = {"timestamp": str(int(site.clock.now.timestamp() * 1000))}
        twins = [{"propertyName": "t", "reported": {"value": "1", "metadata": metadata}}]
        return {**body, "status": {"twins": twins, "state": "online"}}

    async with site.discovery() as discovery:
        site.apply(report())
        await site.until(lambda leaves, _: "board" in leaves and condition(leaves["board"], "Online")[1] == "Reporting")
        written = site.writes()
        for _ in range(5):
            site.clock.advance(11)
            site.apply(report())
            await discovery.reconcile(key)
            await idle(discovery)
        assert site.writes() == written
        site.clock.advance(11)
        site.apply(report())
        before = (await site.leaves())["board"].status
        assert before is not None

        async def written_again() -> bool:
            await discovery.reconcile(key)
            await idle(discovery)
            return site.writes() != written

        await eventually(written_again)
        after = (await site.leaves())["board"].status
    assert len(site.writes()) == len(written) + 1
    assert after is not None
    assert (after.last_seen_time, after.conditions) != (before.last_seen_time, ())
    assert after.conditions == before.conditions


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("not base64!", "standard base64"),
        ("bm8ganNvbg==", "JSON"),
        ("e30=", "a JSON array"),
        ("A" * 200_000, "JSON"),
        (samples.packed({**samples.HUMIDITY, "latency": 100}), "sensors[0].latency"),
        (samples.packed({**samples.HUMIDITY, "latency": "-1"}), "sensors[0].latency"),
    ],
)
async def test_a_broken_annotation_withdraws_what_was_offered_and_says_why(site: Site, text: str, told: str) -> None:
    node = site.node()
    async with site.discovery():
        site.apply(
            samples.device("board", namespace=site.namespace, node=node),
            samples.device("good", namespace=site.namespace, node=node),
        )
        await site.until(lambda leaves, flavors: ready(leaves, "board", "good") and len(flavors) == 4)
        site.apply(samples.device("board", namespace=site.namespace, node=node, sensors=text))
        await site.until(
            lambda leaves, flavors: (
                len(flavors) == 2 and condition(leaves["board"], "SensorsAccepted") == ("False", "InvalidSensors")
            )
        )
        leaves = await site.leaves()
    status = leaves["board"].status
    assert status is not None
    assert any(told in each.message for each in status.conditions if each.type == "SensorsAccepted")
    assert ready(leaves, "good")
    assert await events(site) == ["InvalidSensors"]


async def test_good_entries_are_offered_beside_bad_ones_and_devices_without_any_are_there(site: Site) -> None:
    node = site.node()
    bad = {**samples.PRESSURE, "type": {"sensorCategory": "Environmental", "sensorType": "Pressure"}}
    async with site.discovery():
        site.apply(
            samples.device("mixed", namespace=site.namespace, node=node, sensors=samples.packed(bad, *samples.BOTH)),
            samples.device("none", namespace=site.namespace, node=node, sensors=None),
            samples.device(
                "modbus", namespace=site.namespace, node=node, spec={"protocol": {"protocolName": "modbus"}}
            ),
        )
        await site.until(
            lambda leaves, flavors: (
                len(flavors) == 4
                and condition(leaves.get("none"), "SensorsAccepted") == ("False", "NoSensors")
                and condition(leaves.get("mixed"), "SensorsAccepted") == ("False", "InvalidSensors")
                and ready(leaves, "modbus")
            )
        )


async def test_what_people_do_to_our_objects_is_undone(site: Site) -> None:
    async with site.discovery():
        site.apply(samples.device("board", namespace=site.namespace, node=site.node()))
        before, other = await site.until(offered)
        leaf = (await site.leaves())["board"]
        spec = before.spec.dump()
        extra = {"spec": {"availability": False, "networkPropertyType": "x", "flavorType": {"typeData": {"more": 1}}}}
        await site.kube.patch(Flavor, before.metadata.name, namespace=site.namespace, body=extra, manager="someone")
        await site.until(lambda _, flavors: [each.spec.dump() for each in flavors][:1] == [spec])

        orphan = {"metadata": {"ownerReferences": None}}
        await site.kube.patch(Flavor, before.metadata.name, namespace=site.namespace, body=orphan, manager="someone")
        await site.until(lambda _, flavors: all(each.metadata.owner_references for each in flavors))

        await site.kube.delete(Flavor, other.metadata.name, namespace=site.namespace)
        await site.until(
            lambda _, flavors: len(flavors) == 2 and other.metadata.uid not in [each.metadata.uid for each in flavors]
        )

        body: dict[str, Any] = {"spec": {"sensors": [], "board": {"name": "other"}}}
        await site.kube.patch(LeafDevice, leaf.metadata.name, namespace=site.namespace, body=body, manager="someone")
        await site.until(lambda leaves, _: leaves["board"].spec == leaf.spec)

        await site.kube.delete(LeafDevice, leaf.metadata.name, namespace=site.namespace)
        await site.until(
            lambda leaves, flavors: (
                offered(leaves, flavors)
                and leaves["board"].metadata.uid != leaf.metadata.uid
                and {each.metadata.owner_references[0].uid for each in flavors} == {leaves["board"].metadata.uid}
            )
        )


async def test_a_restart_finds_everything_as_it_should_be_and_writes_nothing(site: Site) -> None:
    node = site.node()
    names = [f"board-{number}" for number in range(20)]
    async with site.discovery():
        site.apply(*(samples.device(name, namespace=site.namespace, node=node) for name in names))
        await site.until(lambda leaves, flavors: ready(leaves, *names) and len(flavors) == 40)
    written = site.writes()
    site.clock.advance(3600)
    async with site.discovery() as discovery:
        for name in names:
            await discovery.reconcile((site.namespace, name))
        await idle(discovery)
    assert site.writes() == written


async def test_what_went_while_nobody_looked_is_cleared_away(site: Site) -> None:
    site.node()
    node = site.node()
    async with site.discovery():
        site.apply(
            samples.device("board", namespace=site.namespace, node=node),
            samples.device("other", namespace=site.namespace, node=node),
        )
        await site.until(lambda leaves, flavors: ready(leaves, "board", "other") and len(flavors) == 4)
    await site.delete("other")
    label(site, node, "no")
    async with site.discovery():
        await site.until(nothing)


async def test_a_device_that_went_unseen_is_not_offered_for_ever(site: Site) -> None:
    async with site.discovery() as discovery:
        site.apply(samples.device("board", namespace=site.namespace, node=site.node()))
        await site.until(offered)
        path = Kind("devices.kubeedge.io/v1beta1", "devices").path(namespace=site.namespace, name="board")
        body = await site.kube.request("GET", path)
        await site.delete("board")
        await site.until(nothing)
        # A watch that missed the deletion still holds the Device, until somebody deletes what is made for it: we, if
        # the garbage collector is not faster.
        written = len(site.writes())
        discovery.device_seen(Put((site.namespace, "board"), body))

        async def made() -> bool:
            return "create leafdevices" in " ".join(site.writes()[written:])

        await eventually(made)
        for leaf in (await site.leaves()).values():
            await site.kube.delete(LeafDevice, leaf.metadata.name, namespace=site.namespace)
        await site.until(nothing)
        await idle(discovery)
        assert nothing(await site.leaves(), await site.flavors())


def refuse_flavors(site: Site, *, operations: list[str], expression: str) -> Callable[[], None]:
    """Makes the API server refuse the site's flavors where an expression is false; the way back."""
    name = f"refuse-flavors-{site.namespace}"
    rule = {
        "apiGroups": ["nodecore.fluidos.eu"],
        "apiVersions": ["*"],
        "operations": operations,
        "resources": ["flavors"],
    }
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": expression, "message": "Sensor is not supported"}],
        },
    }
    selector = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": site.namespace}}}
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": selector},
    }
    site.apply(policy, binding)
    root = "/apis/admissionregistration.k8s.io/v1"

    def allow() -> None:
        site.cluster.api.request("DELETE", f"{root}/validatingadmissionpolicybindings/{name}")
        site.cluster.api.request("DELETE", f"{root}/validatingadmissionpolicies/{name}")

    return allow


def refuse_sensors(site: Site) -> Callable[[], None]:
    """As FLUIDOS' own webhook does everywhere."""
    expression = "object.spec.flavorType.typeIdentifier != 'Sensor'"
    return refuse_flavors(site, operations=["CREATE", "UPDATE"], expression=expression)


async def test_a_cluster_that_refuses_sensor_flavors_is_told_of_and_asked_again_later(site: Site) -> None:
    node = site.node()
    key = (site.namespace, "board")
    async with site.discovery() as discovery:
        site.apply(samples.device("probe", namespace=site.namespace, node=node))
        await site.until(lambda _, flavors: len(flavors) == 2)
        allow = refuse_sensors(site)
        try:
            # A policy takes effect a moment after it was stored: the flavors of the other device show when.
            site.apply(samples.device("board", namespace=site.namespace, node=node))
            await site.until(lambda leaves, _: condition(leaves.get("board"), "FlavorPublished")[0] != "")

            async def refused() -> bool:
                await site.delete("board")
                await site.until(lambda leaves, _: "board" not in leaves)
                site.apply(samples.device("board", namespace=site.namespace, node=node))
                await site.until(lambda leaves, _: condition(leaves.get("board"), "FlavorPublished")[0] != "")
                return condition((await site.leaves())["board"], "FlavorPublished") == ("False", "FlavorRefused")

            await eventually(refused)
            leaf = (await site.leaves())["board"]
            assert condition(leaf, "Ready") == ("True", "Ready")
            assert leaf.status is not None
            assert len(leaf.status.offers) == 2
            assert any("Sensor is not supported" in each.message for each in leaf.status.conditions)
            written = site.writes()
            again = await discovery.reconcile(key)
            assert again is not None
            assert 0 < again <= 300
            assert site.writes() == written
        finally:
            allow()

        async def accepted() -> bool:
            site.clock.advance(301)
            return await discovery.reconcile(key) is None

        await eventually(accepted)
        await site.until(
            lambda leaves, flavors: (
                len(flavors) == 4 and condition(leaves["board"], "FlavorPublished") == ("True", "Published")
            )
        )


@pytest.fixture
async def old_site(control_planes: ControlPlanes) -> AsyncIterator[Site]:
    own = control_planes.start_cluster("v1alpha2")
    install(own, kubeedge="v1alpha2")
    async with await Kube.connect(kubeconfig=own.kubeconfig) as kube:
        yield Site(cluster=own, kube=kube, namespace="default", clock=Clock(), version="v1alpha2")
    own.kill()


async def test_the_forks_version_of_devices_works_the_same(old_site: Site) -> None:
    site = old_site
    first, second = site.node(), site.node()
    anywhere = {
        "nodeSelector": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "node-role.fluidos.eu/sensors", "operator": "Exists"}]}]
        }
    }
    async with site.discovery():
        site.apply(
            samples.old_device("board", namespace="default", node=first),
            samples.old_device("roaming", namespace="default", spec=anywhere),
            samples.old_device(
                "serial", namespace="default", node=second, spec={"protocol": {"modbus": {"slaveID": 1}}}
            ),
        )
        flavors = await site.until(
            lambda leaves, flavors: ready(leaves, "board", "roaming", "serial") and len(flavors) == 6
        )
        assert {characteristics(each)["node"] for each in flavors} == {first, second}
        assert samples.TOPIC in {characteristics(each)["access"]["resource"]["topic"] for each in flavors}
        label(site, first, "no")
        await site.until(
            lambda leaves, flavors: len(flavors) == 4 and {leaf.spec.node_name for leaf in leaves.values()} == {second}
        )
        await site.delete("serial")
        await site.until(lambda leaves, flavors: leaves.keys() == {"roaming"} and len(flavors) == 2)
