"""Providers that hang, answer garbage, refuse, sell and then withdraw, or are gone when a claim is deleted."""

import pytest

from crds.models.sensorclaim import SensorClaim
from edge_resource_manager.claimstore import FINALIZER
from tests.edge_resource_manager.claims.conftest import NEED, Site, bindings, condition, eventually, is_ready
from tests.edge_resource_manager.claims.rear_simulator import Fault, answers, hang, lose_answer, refuses


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (hang, "no answer within 0.5 s"),
        (answers(500), "HTTP 500"),
        (answers(429), "HTTP 429"),
        (answers(307, Location="http://127.0.0.1:1/"), "HTTP 307"),
        (answers(200, b"<html>"), "unreadable list of flavors"),
        (answers(200, b'{"flavors": []}'), "unreadable list of flavors"),
        (answers(200, b"[" * 100_000), "unreadable list of flavors"),
        (answers(200, b" " * (9 * 1024 * 1024)), "an answer of more than 8388608 bytes"),
    ],
)
async def test_a_provider_that_cannot_be_understood_delays_nobody(site: Site, fault: Fault, message: str) -> None:
    bad, good = await site.provider("bad"), await site.provider("good")
    good.offer("f1")
    bad.faults["*"] = fault
    async with site.reconciler():
        site.claim()
        site.claim("pair", count=2, **NEED)
        await site.until(is_ready)
        told = f"bad did not answer: {message}"  # on a busy machine perhaps not at the first look
        await site.until(lambda claim: told in condition(claim, "Bound")[2], name="pair")
        bad.faults.clear()
        bad.offer("f2")
        await site.until(is_ready, name="pair")


async def test_a_provider_that_is_not_there_is_named(site: Site) -> None:
    site.know("nobody", "127.0.0.1:9")
    site.know("nonsense", "http://127.0.0.1:80/x?y")
    async with site.reconciler():
        site.claim()
        claim = await site.until(lambda claim: condition(claim, "Bound")[0] == "False")
    _, reason, message = condition(claim, "Bound")
    assert reason == "ProvidersSilent"
    assert "nobody did not answer: cannot connect: Connection refused" in message
    assert "nonsense did not answer: address 'http://127.0.0.1:80/x?y' is not host:port" in message


async def test_bad_flavors_in_a_list_hide_no_good_ones(site: Site) -> None:
    provider = await site.provider()
    provider.offer("good")
    good = provider.flavors["good"]
    listed = [
        7,
        {**good, "flavorID": "Not A Name"},
        {**good, "timestamp": "yesterday"},
        {**good, "flavorID": "wrong", "type": {"name": "sensor", "data": {"characteristics": {"uid": 1}}}},
        {**good, "flavorID": "slice", "type": {"name": "k8slice", "data": {}}},
        good,
    ]
    import orjson

    provider.faults["list"] = answers(200, orjson.dumps(listed))
    async with site.reconciler():
        site.claim()
        await site.until(is_ready)
    assert provider.sold() == ["good"]


async def test_a_provider_without_sensors_or_without_our_filters_is_still_a_provider(site: Site) -> None:
    import orjson

    stock, simple = await site.provider("stock"), await site.provider("simple")
    stock.faults["*"] = answers(404)
    simple.offer("f1")
    simple.offer("slow", latency="99")

    async def no_filters(request, handler):  # type: ignore[no-untyped-def]  # a fault, see there
        if request.query_string:
            return await refuses(400, "unknown filter")(request, handler)
        return await answers(200, orjson.dumps(list(simple.flavors.values())))(request, handler)

    simple.faults["list"] = no_filters
    async with site.reconciler():
        site.claim()
        claim = await site.until(is_ready)
    assert set(bindings(claim)) == {"f1"}


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        ("reserve", refuses(409, "sold out")),
        ("reserve", refuses(404, "withdrawn")),
        ("reserve", refuses(403, "endpoint sink: loopback")),
        ("reserve", answers(200, b"{}")),
        ("reserve", hang),
        ("reserve", answers(503)),
        ("purchase", refuses(409, "withdrawn")),
        ("purchase", refuses(408, "expired")),
        ("purchase", refuses(404, "unknown")),
    ],
)
async def test_the_next_is_bought_where_one_is_refused(site: Site, operation: str, fault: Fault) -> None:
    first, second = await site.provider("provider-1"), await site.provider("provider-2")
    first.offer("best", latency="1")
    second.offer("second", latency="15")
    first.faults[operation] = fault
    async with site.reconciler():
        site.claim()
        claim = await site.until(is_ready)
    assert set(bindings(claim)) == {"second"}
    assert (first.sold(), second.sold()) == ([], ["second"])


async def test_a_claim_that_is_refused_everywhere_says_so_and_tries_again(site: Site) -> None:
    provider = await site.provider()
    provider.offer("f1")
    provider.faults["reserve"] = refuses(403, "endpoint sink (http://192.0.2.7): private address")
    async with site.reconciler():
        site.claim()
        claim = await site.until(lambda claim: condition(claim, "Bound")[1] == "Refused")
        message = "provider-1 refused f1: HTTP 403: endpoint sink (http://192.0.2.7): private address"
        assert condition(claim, "Bound")[2] == f"0 of 1 bound; {message}"
        assert bindings(claim) == {}
        provider.faults.clear()
        await site.until(is_ready)


@pytest.mark.parametrize("fault", [lose_answer, hang], ids=["bought", "not bought"])
async def test_a_purchase_without_an_answer_ends_with_one_contract(site: Site, fault: Fault) -> None:
    first, second = await site.provider("provider-1"), await site.provider("provider-2")
    first.offer("best", latency="1")
    second.offer("second", latency="15")
    first.faults["purchase"] = fault
    async with site.reconciler():
        site.claim()
        claim = await site.until(is_ready)
        assert set(bindings(claim)) == {"best", "second"}
        assert claim.status is not None
        assert claim.status.bound_count == 1
        first.faults.clear()
        await site.until(lambda claim: is_ready(claim) and len(bindings(claim)) == 1)
    assert len(first.sold() + second.sold()) == 1


async def test_a_flavor_that_is_sold_and_then_withdrawn_is_replaced(site: Site) -> None:
    first, second = await site.provider("provider-1"), await site.provider("provider-2")
    first.offer("best", latency="1")
    second.offer("second", latency="15")
    async with site.reconciler():
        site.claim()
        assert set(bindings(await site.until(is_ready))) == {"best"}
        await eventually(lambda: "events" in first.asked)
        first.withdraw("best")
        await site.until(lambda claim: is_ready(claim) and set(bindings(claim)) == {"second"})
        (note,) = await site.told("BindingLost")
    # Whether a look finds the flavor gone first or the contract depends on when it looks.
    assert note in {
        "best of provider-1: the flavor was withdrawn: gone",
        "best of provider-1: the provider does not hold the contract any more: gone",
    }


async def test_without_events_a_withdrawal_is_found_by_looking(site: Site) -> None:
    provider = await site.provider()
    provider.offer("best", latency="1")
    provider.offer("second", latency="15")
    provider.faults["events"] = answers(404)
    async with site.reconciler():
        site.claim()
        await site.until(is_ready)
        provider.withdraw("best", announce=False)
        await site.until(lambda claim: is_ready(claim) and set(bindings(claim)) == {"second"})


async def test_a_contract_that_the_provider_lost_is_bought_anew(site: Site) -> None:
    provider = await site.provider()
    provider.offer("f1")
    async with site.reconciler():
        site.claim()
        await site.until(is_ready)
        provider.contracts.clear()
        await eventually(lambda: provider.sold() == ["f1"])
        await site.until(is_ready)
    assert provider.bought == ["f1", "f1"]


async def test_a_device_that_is_away_keeps_its_contract_until_a_substitute_is_found(site: Site) -> None:
    provider = await site.provider()
    provider.offer("f1")
    async with site.reconciler():
        site.claim()
        await site.until(is_ready)
        provider.offer("f1", available=False)
        claim = await site.until(lambda claim: condition(claim, "Ready")[0] == "False")
        assert condition(claim, "Ready")[1:] == ("FlavorUnavailable", "f1 is not available")
        assert provider.sold() == ["f1"]
        provider.offer("f2")
        await site.until(lambda claim: is_ready(claim) and set(bindings(claim)) == {"f2"})
    assert provider.sold() == ["f2"]


async def test_a_provider_that_stays_silent_is_replaced_and_its_contract_ended_when_it_is_back(site: Site) -> None:
    first, second = await site.provider("provider-1"), await site.provider("provider-2")
    first.offer("best", latency="1")
    async with site.reconciler():
        site.claim()
        await site.until(is_ready)
        first.faults["*"] = hang
        claim = await site.until(lambda claim: condition(claim, "Ready")[1] == "ProviderSilent")
        assert condition(claim, "Bound")[0] == "True"
        second.offer("second", latency="15")
        await site.until(is_ready)
        assert (first.sold(), second.sold()) == (["best"], ["second"])
        first.faults.clear()
        await eventually(lambda: len(first.sold() + second.sold()) == 1)
        await site.until(lambda claim: is_ready(claim) and len(bindings(claim)) == 1)


async def test_deleting_a_claim_ends_its_contracts(site: Site) -> None:
    provider = await site.provider()
    for n in range(3):
        provider.offer(f"f{n}")
    async with site.reconciler():
        site.claim(count=3, **NEED)
        await site.until(is_ready)
        assert len(provider.sold()) == 3
        await site.kube.delete(SensorClaim, "humidity", namespace=site.namespace)
        await eventually(lambda: _gone(site))
    assert provider.sold() == []


async def test_a_deleted_claim_does_not_wait_for_ever_for_a_provider_that_is_gone(site: Site) -> None:
    provider = await site.provider()
    provider.offer("f1")
    async with site.reconciler():
        site.claim()
        await site.until(is_ready)
        provider.faults["*"] = hang
        await site.kube.delete(SensorClaim, "humidity", namespace=site.namespace)
        await eventually(lambda: _gone(site))
    assert await site.told("ContractsLeft") == ["could not be ended and will expire: f1 of provider-1"]


async def test_a_claim_that_nothing_was_bought_for_goes_at_once(site: Site) -> None:
    async with site.reconciler():
        site.claim()
        claim = await site.until(lambda claim: condition(claim, "Bound")[0] == "False")
        assert FINALIZER in claim.metadata.finalizers
        await site.kube.delete(SensorClaim, "humidity", namespace=site.namespace)
        await eventually(lambda: _gone(site))


async def _gone(site: Site) -> bool:
    return await site.read() is None
