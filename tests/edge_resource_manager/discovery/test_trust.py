"""Discovery against a real API server: others say what is proven of devices, Flavors follow at once."""

import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from crds.conditions import timestamp
from crds.kube.client import Kube
from crds.models.fluidos import Flavor
from crds.models.leafdevice import LeafDevice
from crds.models.trust import Firmware, Trust
from crds.typedata import FlavorTrust, sensor_from_flavor
from scripts.testbed.api import ApiError
from tests.edge_resource_manager.discovery import samples
from tests.edge_resource_manager.discovery.conftest import Site, condition, eventually
from tests.edge_resource_manager.discovery.states import events, idle
from tests.edge_resource_manager.discovery.test_discovery import refuse_flavors

UEID, OTHER = "01" + "ab" * 16, "01" + "cd" * 16
Leaves = dict[str, LeafDevice]
Flavors = list[Flavor]
Attested = tuple[str, str, str]

GOOD: Attested = ("True", "Attested", "it runs thermometer")
LOST: Attested = ("False", "MeasurementUnknown", "nobody knows 0102")


class Appraiser:
    """Says what is proven of the site's devices, as the issuer or as the agent of a node."""

    def __init__(self, kube: Kube, site: Site, *, manager: str) -> None:
        self._kube = kube
        self._site = site
        self._manager = manager

    async def say(self, device: str, trust: Trust | None, attested: Attested) -> None:
        await self._site.until(lambda leaves, _: device in leaves)
        leaf = (await self._site.leaves())[device]
        status, reason, message = attested
        said = {"type": "Attested", "status": status, "reason": reason, "message": message}
        body: dict[str, Any] = {"conditions": [{**said, "lastTransitionTime": timestamp(datetime.now(UTC))}]}
        if trust is not None:
            body["trust"] = trust.dump()
        await self._kube.apply_status(
            LeafDevice, name=leaf.metadata.name, namespace=self._site.namespace, status=body, manager=self._manager
        )

    async def attest(self, device: str = "board", *, ueid: str = UEID, seconds: float = 3600) -> None:
        trust = Trust(
            tier="Attested",
            spiffe_id=f"spiffe://provider/device/{ueid}/app/thermometer",
            application="thermometer",
            firmware=Firmware(measurement="0a" * 32),
            expiration_time=timestamp(self._site.clock.now + timedelta(seconds=seconds)),
        )
        await self.say(device, trust, GOOD)

    async def refuse(self, device: str = "board", attested: Attested = LOST) -> None:
        await self.say(device, Trust(tier="None", application="thermometer"), attested)


@pytest.fixture
async def issuer(site: Site) -> AsyncIterator[Appraiser]:
    account = site.cluster.service_account_kubeconfig("fluidos", "identity-issuer")
    async with await Kube.connect(kubeconfig=account) as kube:
        yield Appraiser(kube, site, manager="identity-issuer")


async def vouch(site: Site, *, node: str, device: str = "board") -> None:
    """As the edge agent of the device's node."""
    account = site.cluster.service_account_kubeconfig("fluidos", "edge-agent", node=node)
    trust = Trust(tier="GatewayVouched", vouched_by=f"spiffe://provider/agent/{node}")
    async with await Kube.connect(kubeconfig=account) as kube:
        said = ("False", "VouchedByGateway", "its gateway speaks for it")
        await Appraiser(kube, site, manager="edge-agent").say(device, trust, said)


def proves(site: Site, name: str = "board", *, ueid: str = UEID, node: str | None = None) -> None:
    """A Device that has to prove who it is."""
    annotations = {"edge.fluidos.eu/ueid": ueid}
    site.apply(samples.device(name, namespace=site.namespace, node=node or site.node(), annotations=annotations))


def asks(site: Site, tier: str | None) -> None:
    """The namespace's label."""
    body = {"metadata": {"labels": {"edge.fluidos.eu/minimum-tier": tier}}}
    path = f"/api/v1/namespaces/{site.namespace}"
    site.cluster.api.request("PATCH", path, body=body, content_type="application/merge-patch+json")


def told(flavor: Flavor) -> FlavorTrust | None:
    return sensor_from_flavor(flavor.spec).trust


def published(leaves: Leaves, flavors: Flavors) -> bool:
    return len(flavors) == 2 and condition(leaves.get("board"), "FlavorPublished") == ("True", "Published")


def withheld(reason: str, status: str = "False") -> Callable[[Leaves, Flavors], bool]:
    def holds(leaves: Leaves, flavors: Flavors) -> bool:
        leaf = leaves.get("board")
        said = {condition(leaf, each) for each in ("FlavorPublished", "Ready")}
        return not flavors and said == {(status, reason)} and not (leaf and leaf.status and leaf.status.offers)

    return holds


async def test_a_device_is_published_when_it_is_attested_and_withdrawn_when_it_no_longer_is(
    site: Site, issuer: Appraiser
) -> None:
    async with site.discovery(insecure=False):
        proves(site)
        await site.until(withheld("NotAttested", "Unknown"))
        assert await events(site) == []
        await issuer.attest()
        flavors = await site.until(published)
        assert {told(each) for each in flavors} == {
            FlavorTrust(
                tier="Attested",
                spiffe_id=f"spiffe://provider/device/{UEID}/app/thermometer",
                application="thermometer",
                firmware="0a" * 32,
            )
        }
        await issuer.refuse()
        await site.until(withheld("MeasurementUnknown"))
        leaf = (await site.leaves())["board"]
        assert leaf.status is not None
        assert leaf.status.trust == Trust(tier="None", application="thermometer")
        assert any("nobody knows 0102" in each.message for each in leaf.status.conditions if each.type == "Ready")
        await issuer.attest()
        await site.until(published)
    assert condition((await site.leaves())["board"], "Insecure") == ("", "")


async def test_a_flavor_is_gone_in_the_blink_in_which_trust_is(site: Site, issuer: Appraiser) -> None:
    async with site.discovery(insecure=False):
        proves(site)
        await issuer.attest()
        await site.until(published)
        await issuer.refuse()
        start = time.monotonic()
        while await site.flavors():
            assert time.monotonic() - start < 10
        print(f"\ntrust withdrawn to flavors gone: {1000 * (time.monotonic() - start):.0f} ms")


async def test_what_a_device_says_anew_changes_its_flavors_in_place(site: Site, issuer: Appraiser) -> None:
    async with site.discovery(insecure=False) as discovery:
        proves(site)
        await issuer.attest()
        before = await site.until(published)
        await idle(discovery)
        written = [each for each in site.writes() if "flavors" in each]
        await issuer.attest(seconds=7200)
        await idle(discovery)
        await discovery.reconcile((site.namespace, "board"))
        assert [each for each in site.writes() if "flavors" in each] == written
        after = await site.flavors()
    assert [each.metadata.uid for each in after] == [each.metadata.uid for each in before]


async def test_a_gateways_word_is_enough_where_the_namespace_says_so(site: Site, issuer: Appraiser) -> None:
    node = site.node()
    async with site.discovery(insecure=False):
        site.apply(samples.device("board", namespace=site.namespace, node=node))
        await site.until(withheld("NotAttested", "Unknown"))
        await vouch(site, node=node)
        before = await site.until(published)
        assert {told(each) for each in before} == {FlavorTrust(tier="GatewayVouched")}
        asks(site, "Attested")
        await site.until(withheld("TierTooLow"))
        asks(site, "Platinum")
        await site.until(withheld("MinimumTierInvalid"))
        leaf = (await site.leaves())["board"]
        assert leaf.status is not None
        assert any("'Platinum' is not valid" in each.message for each in leaf.status.conditions)
        asks(site, None)
        await site.until(published)
        # From now on it has to be somebody: a gateway's word does not make it so.
        proves(site, node=node)
        await site.until(withheld("VouchedByGateway"))
        await issuer.attest()
        await site.until(published)


async def test_a_namespace_may_take_what_proves_nothing(site: Site) -> None:
    asks(site, "None")
    async with site.discovery(insecure=False):
        proves(site)
        flavors = await site.until(published)
    assert {told(each) for each in flavors} == {FlavorTrust(tier="None")}


async def test_trust_ends_by_itself(site: Site, issuer: Appraiser) -> None:
    site.clock.now = datetime.now(UTC)
    async with site.discovery(insecure=False, clock=lambda: datetime.now(UTC)):
        proves(site)
        await issuer.attest(seconds=3)
        await site.until(published)
        await site.until(withheld("Expired"))
        site.clock.now = datetime.now(UTC)
        await issuer.attest()
        await site.until(published)


async def test_a_restart_withdraws_nothing_and_writes_nothing(site: Site, issuer: Appraiser) -> None:
    async with site.discovery(insecure=False) as discovery:
        proves(site)
        await issuer.attest()
        before = await site.until(published)
        await idle(discovery)
    written = site.writes()
    async with site.discovery(insecure=False) as discovery:
        await discovery.reconcile((site.namespace, "board"))
        await idle(discovery)
        assert site.writes() == written
    async with site.discovery(insecure=False) as discovery:
        await issuer.refuse()
        await site.until(withheld("MeasurementUnknown"))
    assert len(before) == 2


async def test_trust_that_went_while_nobody_looked_is_noticed(site: Site, issuer: Appraiser) -> None:
    async with site.discovery(insecure=False):
        proves(site)
        await issuer.attest()
        await site.until(published)
    await issuer.refuse()
    async with site.discovery(insecure=False):
        await site.until(withheld("MeasurementUnknown"))


async def test_what_is_said_while_we_write_ourselves_is_not_missed(site: Site, issuer: Appraiser) -> None:
    async with site.discovery(insecure=False) as discovery:
        proves(site)
        await issuer.attest()
        await site.until(published)
        await idle(discovery)
        leaf = (await site.leaves())["board"].metadata.name
        with discovery._offering.leaves._written((site.namespace, leaf)):
            await issuer.refuse()
            await site.until(lambda _, flavors: not flavors)


async def test_a_withdrawal_that_is_refused_is_tried_until_it_succeeds(site: Site, issuer: Appraiser) -> None:
    def deletions() -> int:
        return sum(each.startswith("delete flavors") for each in site.writes())

    async with site.discovery(insecure=False):
        proves(site)
        await issuer.attest()
        first, _ = await site.until(published)
        allow = refuse_flavors(site, operations=["DELETE"], expression="false")
        path = f"/apis/nodecore.fluidos.eu/v1alpha1/namespaces/{site.namespace}/flavors/{first.metadata.name}"
        try:

            async def in_force() -> bool:
                return not is_allowed(site, path)

            await eventually(in_force)
            before = deletions()
            await issuer.refuse()

            async def tried() -> bool:
                return deletions() >= before + 2

            await eventually(tried)
            assert len(await site.flavors()) == 2
        finally:
            allow()
        await site.until(withheld("MeasurementUnknown"))


def is_allowed(site: Site, path: str) -> bool:
    """Whether an object could be deleted: a policy takes effect a moment after it was stored."""
    try:
        site.cluster.api.request("DELETE", path, query={"dryRun": "All"})
    except ApiError:
        return False
    return True


async def test_a_device_that_names_no_ueid_properly_is_not_offered_on_a_gateways_word(site: Site) -> None:
    node = site.node()
    async with site.discovery(insecure=False):
        proves(site, ueid=UEID.upper(), node=node)
        await vouch(site, node=node)
        await site.until(
            lambda leaves, flavors: (
                not flavors
                and condition(leaves["board"], "FlavorPublished") == ("False", "InvalidUeid")
                and condition(leaves["board"], "SensorsAccepted") == ("False", "InvalidSensors")
            )
        )


async def test_another_ueid_makes_another_device(site: Site, issuer: Appraiser) -> None:
    node = site.node()
    async with site.discovery(insecure=False):
        proves(site, node=node)
        await issuer.attest()
        await site.until(published)
        proves(site, ueid=OTHER, node=node)
        await site.until(withheld("NotAttested", "Unknown"))
        await issuer.attest(ueid=OTHER)
        await site.until(published)


async def test_on_a_bench_everything_is_offered_and_everything_says_so(site: Site) -> None:
    asks(site, "Attested")
    async with site.discovery(insecure=True):
        proves(site)
        flavors = await site.until(published)
        assert {told(each) for each in flavors} == {FlavorTrust(tier="None")}
        assert condition((await site.leaves())["board"], "Insecure") == ("True", "InsecureMode")
    async with site.discovery(insecure=False):
        await site.until(withheld("NotAttested", "Unknown"))
        assert condition((await site.leaves())["board"], "Insecure") == ("", "")
