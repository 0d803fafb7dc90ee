"""A work queue of keys: each key is worked on by one worker at a time, and what came meanwhile is one more turn.

This is what makes managers level-triggered: events say only that a key is worth a look.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog

from crds.errors import Retryable, Terminal
from crds.kube.metrics import DEPTH, LOOK_SECONDS, LOOKS

log = structlog.get_logger(__name__)

K = TypeVar("K", bound=Hashable)

FIRST_BACKOFF = 0.2
MAX_BACKOFF = 30.0


@dataclass(slots=True)
class _State(Generic[K]):
    """Keys waiting, in hand, to be looked at again, and failures in a row."""

    ready: dict[K, None] = field(default_factory=dict)
    active: set[K] = field(default_factory=set)
    again: set[K] = field(default_factory=set)
    failures: dict[K, int] = field(default_factory=dict)
    due: dict[K, float] = field(default_factory=dict)
    timers: list[tuple[float, int, K]] = field(default_factory=list)


class WorkQueue(Generic[K]):
    """Bounded by the number of distinct keys.

    Args:
        name: for logs and metrics.
        work: looks at one key. It may return the seconds after which to look again, or None.
        workers: how many keys are worked on at a time.
    """

    def __init__(self, name: str, work: Callable[[K], Awaitable[float | None]], *, workers: int = 16) -> None:
        self._name = name
        self._work = work
        self._workers = workers
        self._state: _State[K] = _State()
        self._wake = asyncio.Event()
        self._timer_wake = asyncio.Event()
        self._order = 0
        DEPTH.labels(name).set_function(self.__len__)

    def __len__(self) -> int:
        return len(self._state.ready) + len(self._state.active)

    def add(self, key: K) -> None:
        """Look at this key as soon as a worker is free."""
        if key in self._state.active:
            self._state.again.add(key)
        else:
            self._state.ready[key] = None
            self._wake.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Look at this key later; of several times set, the earliest counts."""
        when = asyncio.get_running_loop().time() + seconds
        if self._state.due.get(key, float("inf")) <= when:
            return
        self._state.due[key] = when
        self._order += 1
        heapq.heappush(self._state.timers, (when, self._order, key))
        self._timer_wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_timers())
            for _ in range(self._workers):
                group.create_task(self._run_worker())

    async def _run_timers(self) -> None:
        state = self._state
        while True:
            now = asyncio.get_running_loop().time()
            while state.timers and state.timers[0][0] <= now:
                when, _, key = heapq.heappop(state.timers)
                if state.due.get(key) == when:
                    del state.due[key]
                    self.add(key)
            self._timer_wake.clear()
            pause = state.timers[0][0] - now if state.timers else None
            try:
                # Not wait_for: before Python 3.12 it can lose a cancellation that comes together with the event.
                async with asyncio.timeout(pause):
                    await self._timer_wake.wait()
            except TimeoutError:
                continue

    async def _run_worker(self) -> None:
        state = self._state
        while True:
            while not state.ready:
                self._wake.clear()
                await self._wake.wait()
            key = next(iter(state.ready))
            del state.ready[key]
            state.active.add(key)
            try:
                await self._look(key)
            finally:
                state.active.discard(key)
                if key in state.again:
                    state.again.discard(key)
                    self.add(key)

    async def _look(self, key: K) -> None:
        failures, outcome = self._state.failures, "done"
        try:
            with LOOK_SECONDS.labels(self._name).time():
                again = await self._work(key)
        except Retryable as error:
            outcome = "retry"
            failures[key] = failures.get(key, 0) + 1
            pause = error.after if error.after is not None else backoff(failures[key])
            log.warning("will try again", queue=self._name, key=key, error=str(error), retry_in=round(pause, 2))
            self.add_after(key, pause)
        except Terminal as error:
            outcome = "terminal"
            failures.pop(key, None)
            log.error("given up until it changes", queue=self._name, key=key, reason=error.reason, error=str(error))
        except Exception:
            # A defect of ours in one object must not stop the work on all others; it is logged whole and tried again.
            outcome = "defect"
            failures[key] = failures.get(key, 0) + 1
            log.exception("unexpected", queue=self._name, key=key)
            self.add_after(key, backoff(failures[key]))
        else:
            failures.pop(key, None)
            if again is not None:
                self.add_after(key, again)
        finally:
            LOOKS.labels(self._name, outcome).inc()


def backoff(failures: int) -> float:
    """Exponential with jitter: 0.2 s, doubling, at most 30 s."""
    ceiling = min(FIRST_BACKOFF * 2.0 ** min(failures - 1, 16), MAX_BACKOFF)
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
