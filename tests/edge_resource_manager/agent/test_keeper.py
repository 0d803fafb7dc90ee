"""Accounts converge, whatever the broker does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from crds.errors import Retryable
from edge_resource_manager.agent.domain.accounts import (
    Access,
    Admit,
    Amend,
    Held,
    Plan,
    Right,
    Rights,
    Step,
    Withdraw,
)
from edge_resource_manager.agent.keeper import Keeper

SEND = frozenset({Right(Access.SEND, "sensor/x")})
UEIDS = [f"01{number:032x}" for number in range(10)]


class Broker:
    """Accounts in memory; fails when it is told to, before or after it did as asked."""

    def __init__(self) -> None:
        self.has: dict[str, Rights | None] = {}
        self.requests: list[list[Step]] = []
        self.lists = 0
        self.asked = asyncio.Event()
        self.fail_before: set[int] = set()
        self.fail_after: set[int] = set()

    async def held(self) -> Held:
        self.lists += 1
        return dict(self.has)

    async def apply(self, steps: list[Step]) -> None:
        number = len(self.requests)
        self.requests.append(steps)
        self.asked.set()
        await asyncio.sleep(0)
        if number in self.fail_before:
            raise Retryable("no answer")
        for step in steps:
            match step:
                case Withdraw(name):
                    self.has.pop(name, None)
                case Amend(name, rights) | Admit(name, rights):
                    self.has[name] = rights
        if number in self.fail_after:
            raise Retryable("the answer was lost")


class Wanted:
    """What is to be, and until when."""

    def __init__(self, *names: str) -> None:
        self.accounts: Mapping[str, Rights] = dict.fromkeys(names, SEND)
        self.until: datetime | None = None

    def __call__(self, now: datetime) -> Plan:
        ended = self.until is not None and now >= self.until
        return Plan(accounts={} if ended else self.accounts, refused=(), until=None if ended else self.until)


@asynccontextmanager
async def kept(broker: Broker, wanted: Wanted) -> AsyncIterator[Keeper]:
    keeper = Keeper(broker, wanted)
    running = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def settled(broker: Broker, wanted: Mapping[str, Rights]) -> None:
    for _ in range(500):
        if broker.has == wanted:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(broker.has)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("moment", ["fail_before", "fail_after"])
async def test_a_request_that_fails_at_any_point_is_made_good(number: int, moment: str) -> None:
    broker, wanted = Broker(), Wanted(*UEIDS)
    getattr(broker, moment).add(number)
    async with kept(broker, wanted) as keeper:
        await settled(broker, wanted.accounts)
        assert await keeper.has(UEIDS[-1], within=5)
        assert keeper.in_order
    assert broker.lists == 2


async def test_a_cut_overtakes_a_long_filling() -> None:
    broker, wanted = Broker(), Wanted(*UEIDS)
    async with kept(broker, wanted) as keeper:
        await broker.asked.wait()
        wanted.accounts = dict.fromkeys(UEIDS[1:], SEND)
        keeper.changed()
        await settled(broker, wanted.accounts)
    assert broker.requests[1][0] == Withdraw(UEIDS[0])


async def test_nothing_is_asked_of_a_broker_that_is_in_order() -> None:
    broker, wanted = Broker(), Wanted(UEIDS[0])
    async with kept(broker, wanted) as keeper:
        await settled(broker, wanted.accounts)
        for _ in range(50):
            keeper.changed()
            await asyncio.sleep(0)
    assert (len(broker.requests), broker.lists) == (1, 1)


async def test_a_broker_that_may_be_another_is_looked_at_again() -> None:
    broker, wanted = Broker(), Wanted(UEIDS[0])
    async with kept(broker, wanted) as keeper:
        await settled(broker, wanted.accounts)
        broker.has.clear()
        keeper.forget()
        await settled(broker, wanted.accounts)


async def test_what_ends_is_withdrawn_by_the_clock_alone() -> None:
    broker, wanted = Broker(), Wanted(UEIDS[0])
    wanted.until = datetime.now(UTC) + timedelta(seconds=0.3)
    async with kept(broker, wanted):
        await settled(broker, wanted.accounts)
        await settled(broker, {})


async def test_waiting_for_an_account_ends_with_it_or_in_time() -> None:
    broker, wanted = Broker(), Wanted()
    async with kept(broker, wanted) as keeper:
        assert not await keeper.has(UEIDS[0], within=0.05)
        waiting = asyncio.create_task(keeper.has(UEIDS[0], within=10))
        await asyncio.sleep(0)
        wanted.accounts = {UEIDS[0]: SEND}
        keeper.changed()
        assert await waiting
