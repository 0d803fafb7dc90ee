"""Keeps the broker's accounts as they are to be, and cuts those off whose trust is gone.

Level-triggered: what the broker has is asked for once a connection, and again now and then; a broker that lost its
accounts is filled again, and one that somebody else changed is set right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Protocol

import structlog

from crds.errors import Retryable
from crds.kube.queue import backoff
from edge_resource_manager.agent.domain.accounts import Admit, Amend, Held, Plan, Rights, Step, Withdraw, steps
from edge_resource_manager.agent.metrics import ACCOUNTS, REFUSED_TOPICS, STEPS

log = structlog.get_logger(__name__)

STEPS_A_REQUEST: Final = 4
"""A request holds the broker up for its length: 40 ms a step where it has a thousand accounts."""
ASK_AGAIN_SECONDS: Final = 300.0
MOST_TOLD: Final = 10


class Accounts(Protocol):
    """A broker's accounts."""

    async def held(self) -> Held:
        """What it has.

        Raises:
            Retryable: it does not answer.
        """

    async def apply(self, steps: list[Step]) -> None:
        """Take steps.

        Raises:
            Retryable: not all were taken.
        """


class Keeper:
    """Makes `plan` so.

    Args:
        accounts: the broker's.
        plan: what is to be at a time.
    """

    def __init__(self, accounts: Accounts, plan: Callable[[datetime], Plan]) -> None:
        self._accounts = accounts
        self._plan = plan
        self._held: dict[str, Rights | None] | None = None
        self._asked = 0.0
        self._refused = 0
        self._dirty = asyncio.Event()
        self._settled = asyncio.Condition()
        self.in_order = False

    def changed(self) -> None:
        """What is to be may be different now."""
        self._dirty.set()

    def forget(self) -> None:
        """The broker may be another than it was."""
        self._held = None
        self._dirty.set()

    async def has(self, name: str, *, within: float) -> bool:
        """Whether there is an account of this name, or comes to be in so many seconds."""
        try:
            async with asyncio.timeout(within), self._settled:
                await self._settled.wait_for(lambda: self._held is not None and self._held.get(name) is not None)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Work until cancelled."""
        failures = 0
        while True:
            self._dirty.clear()
            try:
                pause = await self._converge()
                failures = 0
            except Retryable as error:
                failures += 1
                pause = min(backoff(failures), 5.0)
                self._held, self.in_order = None, False
                log.warning("accounts not in order", error=str(error), retry_in=round(pause, 2))
            async with self._settled:
                self._settled.notify_all()
            try:
                async with asyncio.timeout(pause):
                    await self._dirty.wait()
            except TimeoutError:
                continue

    async def _converge(self) -> float:
        """Take the most urgent steps; the seconds after which to look again, if nothing changes before."""
        loop = asyncio.get_running_loop()
        if self._held is None or loop.time() - self._asked > ASK_AGAIN_SECONDS:
            self._held, self._asked = dict(await self._accounts.held()), loop.time()
        now = datetime.now(UTC)
        plan = self._plan(now)
        self._tell(plan)
        todo = steps(self._held, plan.accounts)
        some = list(islice(todo, STEPS_A_REQUEST))
        if some:
            await self._accounts.apply(some)
            for step in some:
                self._note(step)
        self.in_order = len(some) == len(todo)
        if not self.in_order:
            return 0.0
        ends = (plan.until - now).total_seconds() if plan.until else ASK_AGAIN_SECONDS
        return max(0.0, min(ends, ASK_AGAIN_SECONDS))

    def _note(self, step: Step) -> None:
        STEPS.labels(type(step).__name__).inc()
        log.info("account", step=type(step).__name__, name=step.name)
        if self._held is None:  # the connection was lost meanwhile
            return
        match step:
            case Withdraw(name):
                self._held.pop(name, None)
            case Amend(name, rights) | Admit(name, rights):
                self._held[name] = rights

    def _tell(self, plan: Plan) -> None:
        ACCOUNTS.set(len(plan.accounts))
        REFUSED_TOPICS.set(len(plan.refused))
        if plan.refused and len(plan.refused) != self._refused:
            told = [f"{each.device}: {each.topic}: {each.why}" for each in plan.refused[:MOST_TOLD]]
            log.warning("topics refused", number=len(plan.refused), first=told)
        self._refused = len(plan.refused)
