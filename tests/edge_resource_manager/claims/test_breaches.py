"""Promises at work: a real API server, and providers that measure what they are told to."""

from __future__ import annotations

from aiohttp import web

from tests.edge_resource_manager.claims.conftest import NEED, Site, bindings, condition, eventually, is_ready
from tests.edge_resource_manager.claims.rear_simulator import Handler


async def test_a_claim_says_what_its_providers_measure(site: Site) -> None:
    provider = await site.provider()
    provider.latency[provider.offer("a")] = 9_000
    async with site.reconciler():
        site.claim()
        claim = await site.until(lambda claim: condition(claim, "PromiseKept")[0] == "True")
    bound = bindings(claim)["a"]
    assert bound.measured is not None
    assert (bound.measured.rate_millihertz, bound.measured.p99_microseconds) == (1000, 9_000)
    assert bound.measured.delivered
    assert bound.latency_microseconds == 12_000


async def test_a_breach_is_told_and_moves_nothing_unless_that_is_asked(site: Site) -> None:
    slow, other = await site.provider(), await site.provider("provider-2")
    slow.latency[slow.offer("a")] = 48_000
    async with site.reconciler():
        site.claim()
        await site.until(is_ready)
        other.offer("b")
        claim = await site.until(lambda claim: condition(claim, "PromiseKept")[0] == "False")
        assert condition(claim, "PromiseKept")[1:] == (
            "LatencyBreached",
            "a of provider-1: measured latency 48.000 ms, asked < 16.000 ms",
        )
        assert await site.told("LatencyBreached") == [condition(claim, "PromiseKept")[2]]
        assert is_ready(claim)
        slow.latency["a"] = 9_000
        claim = await site.until(lambda claim: condition(claim, "PromiseKept")[0] == "True")
    assert set(bindings(claim)) == {"a"}
    assert other.bought == []


async def test_a_breach_leads_to_another_provider_and_the_old_contract_ends_when_that_delivers(site: Site) -> None:
    slow, quick = await site.provider(), await site.provider("provider-2")
    slow.latency[slow.offer("a")] = 48_000
    ended_with: list[bool] = []

    async def end(request: web.Request, handler: Handler) -> web.StreamResponse:
        ended_with.append("b" in quick.latency)
        return await handler(request)

    slow.faults["end"] = end
    async with site.reconciler():
        site.claim(**NEED, onBreach="Rebind")
        claim = await site.until(lambda claim: condition(claim, "PromiseKept")[0] == "False")
        assert condition(claim, "Ready")[:2] == ("False", "LatencyBreached")
        quick.offer("b")
        await site.until(lambda claim: is_ready(claim) and set(bindings(claim)) == {"a", "b"})
        looks = quick.asked.count("contract")
        await eventually(lambda: quick.asked.count("contract") > looks + 1, "some more looks")
        assert slow.sold() == ["a"], "nothing has come of the new one yet"
        quick.latency["b"] = 9_000
        claim = await site.until(lambda claim: set(bindings(claim)) == {"b"})
        note = "a of provider-1: measured latency 48.000 ms, asked < 16.000 ms"
        assert await site.told("BindingReleased") == [note]
        await site.until(lambda claim: condition(claim, "PromiseKept")[0] == "True")
    assert (slow.sold(), quick.sold(), ended_with) == ([], ["b"], [True])


async def test_who_asks_for_what_is_observed_gets_nothing_else(site: Site) -> None:
    provider = await site.provider()
    provider.offer("a")
    provider.offer("b", additional={"observedLatencyMicros": "16000"})
    async with site.reconciler():
        site.claim(**NEED, latencyBasis="Observed")
        claim = await site.until(lambda claim: condition(claim, "Bound")[1] == "NoMatch")
        message = condition(claim, "Bound")[2]
        assert "a of provider-1 (hts221): observed latency not observed, asked < 16.000 ms" in message
        assert "b of provider-1 (hts221): observed latency 16.000 ms, asked < 16.000 ms" in message
        provider.offer("a", additional={"observedLatencyMicros": "15999"})
        claim = await site.until(is_ready)
    assert set(bindings(claim)) == {"a"}
