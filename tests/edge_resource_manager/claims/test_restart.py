"""The manager dies at every line of buying, or two of them work at once: one contract, and the status knows it."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from crds.kube.client import MERGE_PATCH, Kind, Kube, Object
from crds.models.sensorclaim import SensorClaim
from tests.edge_resource_manager.claims.conftest import Site, bindings, eventually, is_ready
from tests.edge_resource_manager.claims.rear_simulator import Handler, hang, lose_answer


class DyingKube(Kube):
    """Stops answering for ever, before or after the API server got the n-th write."""

    def __init__(self, living: Kube, *, write: int, after: bool) -> None:
        super().__init__(living.configuration)
        self._left = write
        self._after = after
        self.dead = asyncio.Event()

    async def request(self, method: str, path: str, **arguments: Any) -> Object:
        writes = method == "PATCH"
        self._left -= writes
        last = writes and self._left == 0
        if self.dead.is_set() or (last and not self._after):
            await self._die()
        answer = await super().request(method, path, **arguments)
        if last:
            await self._die()
        return answer

    async def _die(self) -> None:
        self.dead.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", [1, 2, 3], ids=["finalizer", "intent", "contract"])
async def test_killed_at_a_write_nothing_is_bought_twice(site: Site, write: int, *, after: bool) -> None:
    provider = await site.provider()
    provider.offer("a", latency="1")
    provider.offer("b", latency="15")
    kube = DyingKube(site.manager, write=write, after=after)
    async with kube, site.reconciler(kube=kube):
        site.claim()
        await asyncio.wait_for(kube.dead.wait(), 20)
    async with site.reconciler():
        claim = await site.until(is_ready)
    assert provider.bought == ["a"]
    assert [each.contract for each in bindings(claim).values()] == list(provider.contracts)


@pytest.mark.parametrize("operation", ["list", "reserve", "purchase"])
@pytest.mark.parametrize("fault", [hang, lose_answer], ids=["before", "after"])
async def test_killed_in_the_middle_of_a_request_nothing_is_bought_twice(
    site: Site, operation: str, fault: Any
) -> None:
    provider = await site.provider()
    provider.offer("a", latency="1")
    provider.offer("b", latency="15")
    provider.faults[operation] = fault
    async with site.reconciler():
        site.claim()
        await eventually(lambda: operation in provider.asked)
        if fault is lose_answer and operation == "purchase":
            await eventually(lambda: provider.bought == ["a"])
    provider.faults.clear()
    async with site.reconciler():
        await site.until(is_ready)
    assert provider.bought == ["a"]
    assert provider.sold() == ["a"]


async def test_killed_after_a_purchase_and_asked_for_something_else_the_old_contract_is_ended(site: Site) -> None:
    provider = await site.provider()
    provider.offer("a", latency="1")
    provider.offer("b", latency="15")
    provider.faults["purchase"] = lose_answer
    async with site.reconciler():
        site.claim()
        await eventually(lambda: provider.bought == ["a"])
    provider.faults.clear()
    site.claim(sensor={"type": "Humidity"}, limits={"latencyMicroseconds": {"greaterThan": 10_000}})
    async with site.reconciler():
        claim = await site.until(lambda claim: is_ready(claim) and set(bindings(claim)) == {"b"})
    assert provider.sold() == ["b"]
    assert [each.contract for each in bindings(claim).values()] == list(provider.contracts)


@pytest.mark.parametrize("other", [[], ["b"]], ids=["dropped", "replaced"])
async def test_what_another_manager_gave_up_while_it_was_bought_is_not_orphaned(site: Site, other: list[str]) -> None:
    provider = await site.provider()
    provider.offer("a", latency="1")
    provider.offer("b", latency="15")

    async def meddle(request: web.Request, handler: Handler) -> web.StreamResponse:
        del provider.faults["purchase"]
        intents = [
            {
                "flavor": each,
                "provider": "provider-1",
                "providerAddress": provider.address,
                "contract": "",
                "transaction": "",
            }
            for each in other
        ]
        path = Kind.of(SensorClaim.crd).path(namespace=site.namespace, name="humidity", subresource="status")
        body = {"status": {"bindings": intents}}
        await site.kube.request("PATCH", path, body=body, content_type=MERGE_PATCH)
        return await handler(request)

    provider.faults["purchase"] = meddle
    async with site.reconciler():
        site.claim()
        claim = await site.until(lambda claim: is_ready(claim) and len(bindings(claim)) == 1)
    assert provider.bought[0] == "a"
    assert [each.contract for each in bindings(claim).values()] == list(provider.contracts)


async def test_two_managers_at_once_buy_one_contract_a_claim(site: Site) -> None:
    provider = await site.provider()
    for n in range(4):
        provider.offer(f"f{n}")
    async with site.reconciler(), site.reconciler():
        for n in range(4):
            site.claim(f"claim-{n}", sensor={"type": "Humidity"})
        claims = [await site.until(is_ready, name=f"claim-{n}") for n in range(4)]
    contracts = [each.contract for claim in claims for each in bindings(claim).values()]
    assert sorted(contracts) == sorted(provider.contracts)
    assert len(contracts) == 4
