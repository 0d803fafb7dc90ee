"""The work queue: one worker a key, nothing forgotten, failures retried, a defect in one key stops no other."""

import asyncio
from collections import Counter

import pytest

from crds.errors import Retryable, Terminal
from crds.kube.queue import MAX_BACKOFF, WorkQueue, backoff


async def settle(queue: WorkQueue[str], *, until: asyncio.Event) -> None:
    running = asyncio.create_task(queue.run())
    try:
        await asyncio.wait_for(until.wait(), 10)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_is_added_while_a_key_is_in_hand_gets_one_more_turn() -> None:
    done = asyncio.Event()
    seen: list[str] = []
    at_once: Counter[str] = Counter()

    async def work(key: str) -> None:
        at_once[key] += 1
        assert at_once[key] == 1, "two workers had the same key"
        seen.append(key)
        if len(seen) == 1:
            for _ in range(5):
                queue.add(key)
        await asyncio.sleep(0)
        at_once[key] -= 1
        if len(seen) == 2:
            done.set()

    queue: WorkQueue[str] = WorkQueue("test", work, workers=4)
    queue.add("a")
    await settle(queue, until=done)
    assert seen == ["a", "a"]
    assert len(queue) == 0


async def test_a_key_that_fails_is_tried_again_and_holds_up_no_other() -> None:
    turns: Counter[str] = Counter()
    done = asyncio.Event()

    async def work(key: str) -> None:
        turns[key] += 1
        if turns == {"terminal": 1, "defect": 2, "retry": 3, "good": 1}:
            done.set()
        if key == "retry" and turns[key] < 3:
            raise Retryable("not yet", after=0.01)
        if key == "defect" and turns[key] < 2:
            raise ZeroDivisionError
        if key == "terminal":
            raise Terminal("never")

    queue: WorkQueue[str] = WorkQueue("test", work, workers=1)
    for key in ("terminal", "defect", "retry", "good"):
        queue.add(key)
    await settle(queue, until=done)
    assert turns["terminal"] == 1


async def test_of_several_times_to_look_again_the_earliest_counts() -> None:
    done = asyncio.Event()
    turns: Counter[str] = Counter()

    async def work(key: str) -> float | None:
        turns[key] += 1
        if turns[key] == 2:
            done.set()
        return 0.01 if turns[key] == 1 else None

    queue: WorkQueue[str] = WorkQueue("test", work)
    queue.add("a")
    queue.add_after("a", 60)
    queue.add_after("b", 60)
    await settle(queue, until=done)
    assert turns == {"a": 2}


@pytest.mark.parametrize("failures", [1, 5, 50, 5000])
def test_backoff_grows_and_is_bounded(failures: int) -> None:
    assert 0 < backoff(failures) <= MAX_BACKOFF
