"""A claim that nothing satisfies, through the real gateway: a device is made into it, or the claim goes on looking."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from crds.conditions import timestamp
from crds.models.firmwarerollout import FirmwareRollout
from crds.models.fluidos import Contract
from crds.models.sensorclaim import Repurposing, SensorClaim
from edge_resource_manager.domain.claims import decide
from edge_resource_manager.domain.claimstatus import verdicts
from edge_resource_manager.domain.matching import Fails, Fits, Need, judge
from scripts.testbed.cluster import Cluster
from tests.edge_resource_manager.claims.conftest import Site, bindings, condition, eventually, is_ready
from tests.edge_resource_manager.claims.market import binding, market
from tests.edge_resource_manager.claims.samples import NOW, candidate, spec
from tests.edge_resource_manager.gateway import samples
from tests.edge_resource_manager.gateway.conftest import Provider, running
from tests.edge_resource_manager.workshop import Workshop

ALLOW: dict[str, Any] = {"repurpose": {"mode": "Allow", "maxSeconds": 120}}
WIND: dict[str, Any] = {"sensor": {"type": "WindSpeed"}, "limits": {"latencyMicroseconds": {"lessThan": 16_000}}}
NEED = Need.of(spec(sensor={"type": "Humidity"}).model_copy(update={"repurpose": None}))
PATIENT = replace(NEED, repurpose_seconds=60)


def made(seconds: int | None = 30) -> Any:
    offer = candidate()
    return replace(offer, view=replace(offer.view, repurpose_seconds=seconds))


def test_what_must_be_made_first_fits_only_where_that_is_allowed() -> None:
    assert isinstance(judge(PATIENT, made()), Fits)
    assert isinstance(judge(replace(NEED, repurpose_seconds=30), made()), Fits)
    for need in (NEED, replace(NEED, repurpose_seconds=29)):
        outcome = judge(need, made())
        assert isinstance(outcome, Fails)
        assert [miss.field for miss in outcome.misses] == ["repurposing"]
    assert isinstance(judge(NEED, made(None)), Fits)


def test_a_device_that_is_being_made_counts_as_bound_to_nothing_yet() -> None:
    until = timestamp(NOW + timedelta(seconds=60))
    site = market(made())
    site.held.add("flavor-1")
    site.bindings["flavor-1"] = binding(repurposing=Repurposing(expected_seconds=30, until=until))
    situation = site.situation(1, need=PATIENT)
    plan = decide(situation)
    assert plan.settled
    assert (plan.bound, len(plan.making)) == (0, 1)
    told = {each.type: each for each in verdicts(situation, plan)}
    assert (told["Bound"].status, told["Bound"].reason, told["Ready"].status) == ("False", "Repurposing", "False")
    assert "a device of provider-1 is being made into flavor-1, expected within 30 s" in told["Bound"].message


def test_a_device_that_was_not_made_in_time_is_let_go() -> None:
    site = market(made())
    site.held.add("flavor-1")
    site.bindings["flavor-1"] = binding(repurposing=Repurposing(expected_seconds=30, until=timestamp(NOW)))
    [(released, why)] = decide(site.situation(1, need=PATIENT)).release
    assert released.flavor == "flavor-1"
    assert "repurposing not done" in why


@pytest.fixture
async def gateway(cluster: Cluster, site: Site) -> AsyncIterator[Provider]:
    cluster.apply([samples.IDENTITY])
    async with running(cluster, egress_allow="192.0.2.0/24") as provider:
        site.know("provider-1", provider.url.removeprefix("http://").removesuffix("/api/v2"))
        yield provider


@pytest.fixture
async def workshop(gateway: Provider, site: Site) -> AsyncIterator[Workshop]:
    async with Workshop.opened(gateway.cluster, site.namespace) as shop:
        await shop.allow()
        yield shop


def here(site: Site, **changed: Any) -> dict[str, Any]:
    return {**WIND, "selector": f'device.attributes["sensor.fluidos.eu"].node == "{site.namespace}"', **changed}


def anemometer(name: str, site: Site) -> dict[str, Any]:
    """A sensor that is there."""
    units = {"measurement": ["m/s"], "consumption": "mW", "samplingRate": "Hz", "latency": "ms"}
    kind = {"sensorCategory": "", "sensorType": ["WindSpeed"]}
    described: dict[str, Any] = {"type": kind, "accuracy": [], "latency": "12", "properties": {"unit": units}}
    return samples.sensor(name, namespace=site.namespace, **described)


def reason(claim: SensorClaim) -> str:
    return condition(claim, "Bound")[1]


async def test_a_device_becomes_what_a_claim_needs(site: Site, workshop: Workshop) -> None:
    async with site.reconciler():
        site.claim(**here(site, **ALLOW))
        claim = await site.until(lambda claim: reason(claim) == "Repurposing")
        [bought] = bindings(claim).values()
        assert bought.repurposing is not None
        assert bought.repurposing.expected_seconds == 11
        assert claim.status is not None
        assert claim.status.bound_count == 0
        assert await site.told("Repurposing") == [f"a device of provider-1 is being made into {bought.flavor}"]
        fresh = await workshop.flash("wind")
        claim = await site.until(is_ready)
        [bound] = bindings(claim).values()
        assert (bound.flavor, bound.contract, bound.repurposing) == (fresh.metadata.name, bought.contract, None)
        assert bound.spiffe_id is not None
        assert bound.spiffe_id.endswith("/app/wind")
        assert (bound.tier, bound.sensor_model) == ("Attested", "windspeed-model")


@pytest.mark.parametrize(
    "asked", [{}, {"repurpose": {"mode": "Never"}}, {"repurpose": {"mode": "Allow", "maxSeconds": 10}}]
)
async def test_nothing_is_made_that_the_claim_does_not_allow(site: Site, workshop: Workshop, asked: Any) -> None:
    async with site.reconciler():
        site.claim(**here(site, **asked))
        await site.until(lambda claim: reason(claim) == "NoMatch")
    assert await workshop.rollouts() == {}


async def test_what_is_there_is_taken_before_anything_is_made(
    site: Site, gateway: Provider, workshop: Workshop
) -> None:
    (there,) = await gateway.offer(anemometer("there", site))
    async with site.reconciler():
        site.claim(**here(site, **ALLOW))
        claim = await site.until(is_ready)
    assert set(bindings(claim)) == {there}
    assert await workshop.rollouts() == {}


async def test_a_failure_is_told_and_the_claim_goes_on_looking(
    site: Site, gateway: Provider, workshop: Workshop
) -> None:
    async with site.reconciler():
        site.claim(**here(site, **ALLOW))
        made = await workshop.rollout("wind")
        await workshop.finish(made, "RolledBack", reason="MeasurementMismatch", message="expected 0b, seen 0c")
        why = "RolledBack (MeasurementMismatch): expected 0b, seen 0c"
        await site.until(lambda claim: why in condition(claim, "Bound")[2] and not bindings(claim))
        assert await workshop.kube.list(Contract, namespace=site.namespace) == []
        assert len(await workshop.kube.list(FirmwareRollout, namespace=site.namespace)) == 1, "it is not tried at once"
        await gateway.offer(anemometer("late", site))
        await site.until(is_ready)


async def test_the_earlier_of_two_claims_gets_the_device(site: Site, workshop: Workshop) -> None:
    async with site.reconciler():
        site.claim("first", **here(site, **ALLOW))
        await site.until(lambda claim: reason(claim) == "Repurposing", name="first")
        site.claim("second", **here(site, **ALLOW))
        await site.until(lambda claim: reason(claim) == "NoMatch", name="second")
        await workshop.flash("wind")
        await site.until(is_ready, name="first")
        await site.until(is_ready, name="second")
    assert len(await workshop.kube.list(FirmwareRollout, namespace=site.namespace)) == 1


async def test_a_claim_that_is_deleted_meanwhile_stops_the_rollout(site: Site, workshop: Workshop) -> None:
    async with site.reconciler():
        site.claim(**here(site, **ALLOW))
        await workshop.rollout("wind")
        await site.until(lambda claim: reason(claim) == "Repurposing")
        await site.kube.delete(SensorClaim, "humidity", namespace=site.namespace)

        async def stopped() -> bool:
            return await site.read() is None and (await workshop.rollout("wind")).spec.desired == "Cancel"

        await eventually(stopped)
