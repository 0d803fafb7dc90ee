"""A claim's life between a real API server and providers that behave."""

from datetime import UTC, datetime, timedelta

from crds.conditions import timestamp
from crds.models.fluidos import KnownCluster
from edge_resource_manager.claimstore import FINALIZER
from tests.edge_resource_manager.claims.conftest import NEED, Site, bindings, condition, eventually, is_ready
from tests.edge_resource_manager.claims.rear_simulator import answers, endpoints, refuses


async def test_a_claim_is_bound_to_the_one_flavor_that_fits_and_says_so(site: Site) -> None:
    provider = await site.provider()
    provider.offer("slow", latency="25")
    provider.offer("fast", latency="12")
    async with site.reconciler():
        site.claim()
        claim = await site.until(is_ready)
        assert await site.told("Bound") == ["1 of 1 bound"]
    assert condition(claim, "Bound") == ("True", "Bound", "1 of 1 bound")
    assert claim.status is not None
    assert claim.status.bound_count == 1
    assert FINALIZER in claim.metadata.finalizers
    bound = bindings(claim)["fast"]
    assert (bound.provider, bound.provider_address) == ("provider-1", provider.address)
    assert (bound.sensor_model, bound.latency_microseconds) == ("hts221", 12_000)
    assert provider.sold() == ["fast"]
    contract = provider.contracts[bound.contract]
    assert contract["buyerID"]["ID"] == "consumer1"
    assert contract["configuration"]["data"]["claim"] == {
        "name": "humidity",
        "namespace": site.namespace,
        "uid": claim.metadata.uid,
    }
    assert endpoints(contract) == ["http://192.0.2.7:4487/telegraf"]


async def test_sixteen_milliseconds_do_not_satisfy_less_than_sixteen(site: Site) -> None:
    provider = await site.provider()
    provider.offer("f1", latency="16.000")
    async with site.reconciler():
        site.claim()
        claim = await site.until(lambda claim: condition(claim, "Bound")[0] == "False")
        assert condition(claim, "Bound")[1:] == (
            "NoMatch",
            "0 of 1 bound; no flavor of 1 provider fits; 1 flavor came closest: "
            "f1 of provider-1 (hts221): latency 16.000 ms, asked < 16.000 ms",
        )
        assert provider.sold() == []
        site.claim(sensor={"type": "Humidity"}, limits={"latencyMicroseconds": {"atMost": 16_000}})
        await site.until(is_ready)
    assert provider.sold() == ["f1"]


async def test_a_selector_binds_as_limits_do_and_a_broken_one_is_told_and_mended(site: Site) -> None:
    provider = await site.provider()
    provider.offer("f1")
    async with site.reconciler():
        site.claim(selector='device.attributes["sensor.fluidos.eu"].latencyMicros <')
        claim = await site.until(lambda claim: condition(claim, "Accepted")[0] == "False")
        assert condition(claim, "Accepted")[1] == "Invalid"
        assert condition(claim, "Accepted")[2].startswith("spec.selector: ")
        site.claim(selector='device.attributes["sensor.fluidos.eu"].latencyMicros < 16000')
        claim = await site.until(is_ready)
    assert condition(claim, "Accepted")[0] == "True"
    assert provider.sold() == ["f1"]


async def test_a_provider_or_a_flavor_that_comes_later_is_found(site: Site) -> None:
    async with site.reconciler():
        site.claim(count=2, **NEED)
        claim = await site.until(lambda claim: condition(claim, "Bound")[0] == "False")
        assert condition(claim, "Bound")[1:] == ("NoProviders", "0 of 2 bound; there is no KnownCluster to ask")
        provider = await site.provider()
        provider.offer("f1", announce=False)
        await site.until(lambda claim: condition(claim, "Bound")[1] == "PartlyBound")
        await eventually(lambda: "events" in provider.asked)
        provider.offer("f2")
        await site.until(is_ready)
    assert provider.sold() == ["f1", "f2"]


async def test_all_follows_the_sensors_that_come_and_go(site: Site) -> None:
    one, two = await site.provider("provider-1"), await site.provider("provider-2")
    for name in ("a1", "a2"):
        one.offer(name)
    two.offer("b1")
    two.offer("b2", latency="40")
    async with site.reconciler():
        site.claim(count="All", **NEED)
        await site.until(lambda claim: is_ready(claim) and set(bindings(claim)) == {"a1", "a2", "b1"})
        two.offer("b3")
        one.withdraw("a1")
        one.offer("a2", available=False)
        await site.until(lambda claim: is_ready(claim) and set(bindings(claim)) == {"b1", "b3"})
        one.offer("a2")
        await site.until(lambda claim: is_ready(claim) and set(bindings(claim)) == {"a2", "b1", "b3"})
        # The intent is in the status before it is bought.
        await site.until(lambda claim: all(each.contract for each in bindings(claim).values()))
    assert (one.sold(), two.sold()) == (["a2"], ["b1", "b3"])


async def test_several_flavors_are_spread_over_providers(site: Site) -> None:
    for name in ("provider-1", "provider-2", "provider-3"):
        provider = await site.provider(name)
        for n in range(3):
            provider.offer(f"{name}-f{n}")
    async with site.reconciler():
        site.claim(count=3, **NEED)
        await site.until(is_ready)
    assert [len(each.contracts) for each in site.providers.values()] == [1, 1, 1]


async def test_new_endpoints_go_to_the_contract_that_is_there(site: Site) -> None:
    provider = await site.provider()
    provider.offer("f1")
    async with site.reconciler():
        site.claim()
        before = bindings(await site.until(is_ready))["f1"]
        there = [{"name": "there", "url": "https://there.example/readings"}]
        site.claim(endpoints=there, **NEED)
        after = bindings(await site.until(lambda claim: claim.metadata.generation == 2 and is_ready(claim)))["f1"]
    assert after.contract == before.contract
    assert after.configuration_digest != before.configuration_digest
    assert endpoints(provider.contracts[after.contract]) == ["https://there.example/readings"]
    assert provider.bought == ["f1"]


async def test_new_endpoints_that_the_provider_refuses_leave_the_binding_and_are_told(site: Site) -> None:
    provider = await site.provider()
    provider.offer("f1")
    async with site.reconciler():
        site.claim()
        await site.until(is_ready)
        provider.faults["configure"] = refuses(403, "endpoint there: loopback")
        site.claim(endpoints=[{"name": "there", "url": "http://127.0.0.1/"}], **NEED)
        claim = await site.until(lambda claim: condition(claim, "Ready")[0] == "False")
        assert condition(claim, "Ready")[1:] == ("ConfigurationRefused", "f1 HTTP 403: endpoint there: loopback")
        assert condition(claim, "Bound")[0] == "True"
        provider.faults.clear()
        await site.until(is_ready)


async def test_a_changed_need_moves_the_claim(site: Site) -> None:
    provider = await site.provider()
    provider.offer("f1", latency="12")
    provider.offer("f2", latency="2")
    async with site.reconciler():
        site.claim(sensor={"type": "Humidity"}, limits={"latencyMicroseconds": {"greaterThan": 10_000}})
        await site.until(is_ready)
        assert provider.sold() == ["f1"]
        site.claim(sensor={"type": "Humidity"}, limits={"latencyMicroseconds": {"lessThan": 10_000}})
        await site.until(lambda claim: is_ready(claim) and set(bindings(claim)) == {"f2"})
        assert await site.told("BindingReleased") == [
            "f1 of provider-1: no longer fits: latency 12.000 ms, asked < 10.000 ms"
        ]
    assert provider.sold() == ["f2"]


async def test_contracts_are_renewed_at_half_of_their_lifetime(site: Site) -> None:
    provider = await site.provider()
    provider.lifetime = timedelta(seconds=2)
    provider.offer("f1")
    async with site.reconciler():
        site.claim()
        first = bindings(await site.until(is_ready))["f1"]
        claim = await site.until(lambda claim: bindings(claim)["f1"].expiration_time != first.expiration_time)
    assert "configure" in provider.asked
    assert bindings(claim)["f1"].contract == first.contract


async def test_nothing_is_written_while_nothing_changes(site: Site) -> None:
    provider = await site.provider()
    provider.offer("f1")
    provider.offer("slow", latency="99")
    silent = await site.provider("provider-2")
    silent.faults["*"] = answers(500)
    async with site.reconciler():
        site.claim()
        site.claim("unmatched", sensor={"type": "Pressure"})
        await site.until(is_ready)
        await site.until(lambda claim: condition(claim, "Bound")[1] == "NoMatch", name="unmatched")
        looked = provider.asked.count("list")
        before = [await site.read(name) for name in ("humidity", "unmatched")]
        await eventually(lambda: provider.asked.count("list") >= looked + 6, "three more looks at each")
        after = [await site.read(name) for name in ("humidity", "unmatched")]
    assert before == after


async def test_a_cluster_that_does_not_know_who_it_is_waits(site: Site) -> None:
    (await site.provider()).offer("f1")
    async with site.reconciler(identity=False):
        site.claim()
        claim = await site.until(lambda claim: condition(claim, "Bound")[1] == "NoIdentity")
    assert "fluidos-node-identity" in condition(claim, "Bound")[2]


async def test_an_expired_announcement_is_not_asked(site: Site) -> None:
    provider = await site.provider()
    provider.offer("f1")
    past = timestamp(datetime(2020, 1, 1, tzinfo=UTC))
    status = {"expirationTime": past, "lastUpdateTime": past}
    await site.kube.apply_status(
        KnownCluster, name="provider-1", namespace=site.namespace, status=status, manager="test"
    )
    async with site.reconciler():
        site.claim()
        await site.until(lambda claim: condition(claim, "Bound")[1] == "NoProviders")
    assert provider.asked == []


async def test_a_claim_that_lost_its_device_says_why_until_it_has_another(site: Site) -> None:
    provider = await site.provider()
    provider.offer("f1")
    async with site.reconciler():
        site.claim()
        await site.until(is_ready)
        await eventually(lambda: "events" in provider.asked)
        provider.withdraw("f1", reason="device is not trusted (MeasurementUnknown)")
        await site.until(lambda claim: condition(claim, "Bound")[0] == "False")
        (note,) = await site.told("BindingLost")
        assert note.endswith("device is not trusted (MeasurementUnknown)")
        # Before the list of flavors says so too, the flavor may be asked for once more, and refused.
        said = f"0 of 1 bound; lost {note}; no flavor of 1 provider fits"
        await site.until(lambda claim: said in condition(claim, "Ready")[2])
        site.claim(count=2, **NEED)
        provider.offer("f2")
        claim = await site.until(lambda claim: condition(claim, "Bound")[1] == "PartlyBound")
        assert note in condition(claim, "Bound")[2]
        provider.offer("f3")
        claim = await site.until(is_ready)
        assert "MeasurementUnknown" not in condition(claim, "Bound")[2]


async def test_a_binding_follows_what_its_device_proves(site: Site) -> None:
    def runs(application: str) -> dict[str, str]:
        return {"trustTier": "Attested", "spiffeID": f"spiffe://p/device/01/app/{application}"}

    provider = await site.provider()
    provider.offer("f1", additional=runs("wind"))
    async with site.reconciler():
        site.claim()
        before = bindings(await site.until(is_ready))["f1"]
        assert (before.tier, before.spiffe_id) == ("Attested", "spiffe://p/device/01/app/wind")
        await eventually(lambda: "events" in provider.asked)
        provider.offer("f1", additional=runs("rain"))
        claim = await site.until(
            lambda claim: (each := bindings(claim).get("f1")) and each.spiffe_id == "spiffe://p/device/01/app/rain"
        )
    assert bindings(claim)["f1"].contract == before.contract


async def test_on_a_bench_no_trust_is_asked_and_the_claim_says_so(site: Site) -> None:
    provider = await site.provider()
    provider.offer("f1")
    async with site.reconciler():
        site.claim(**NEED, minimumTier="Attested")
        claim = await site.until(is_ready)
    assert condition(claim, "Insecure")[:2] == ("True", "InsecureMode")
    assert bindings(claim)["f1"].tier == "None"
