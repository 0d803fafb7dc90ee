"""Pages of the spool, read once for all lanes that come by: thousands that fell behind together want the same ones."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from operator import attrgetter
from typing import Final

from router_manager.domain.payload import Record
from router_manager.relay.segment import Damage, Parsed

_KEPT: Final = 32
_MAX_PAUSE_SECONDS: Final = 0.01
_BY_ID = attrgetter("id")


class Contents:
    """A piece of a segment.

    Attributes:
        used: bytes that it covers.
        next_id: one more than the id of the last whole record; None where there is none.
        damage: what was skipped.
    """

    def __init__(self, parsed: Parsed, *, used: int) -> None:
        self.used = used
        self.next_id = parsed.next_id
        self.damage: Sequence[Damage] = parsed.damage
        self._by_topic: dict[str, list[Record]] = {}
        for record in parsed.records:
            self._by_topic.setdefault(record.topic, []).append(record)

    def select(self, topics: Collection[str], *, from_id: int) -> list[Record]:
        """The records of these topics, in order."""
        few, many = sorted((topics, self._by_topic), key=len)
        found = [self._by_topic[topic] for topic in few if topic in many]
        records = found[0] if len(found) == 1 else sorted(chain.from_iterable(found), key=_BY_ID)
        return records if not records or records[0].id >= from_id else [one for one in records if one.id >= from_id]


class Pages:
    """The last ones, and those that are being read."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2, "spool-read")
        self._kept: OrderedDict[Hashable, asyncio.Task[Contents]] = OrderedDict()
        self._began = 0.0

    async def get(self, place: Hashable, read: Callable[[], Contents]) -> Contents:
        """One page; whoever wants one that is being read waits for the same.

        Args:
            place: names its content.
            read: reads it; runs in a thread.
        """
        page = self._kept.get(place)
        if page is None:
            page = self._kept[place] = asyncio.create_task(self._load(read))
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(place)
        return await asyncio.shield(page)

    def close(self) -> None:
        """Wait for reads under way."""
        for page in self._kept.values():
            page.cancel()
        self._threads.shutdown()

    async def _load(self, read: Callable[[], Contents]) -> Contents:
        loop = asyncio.get_running_loop()
        # Catching up is half the work at most: the other half is for lanes that keep up.
        await asyncio.sleep(min(loop.time() - self._began, _MAX_PAUSE_SECONDS))
        self._began = loop.time()
        return await loop.run_in_executor(self._threads, read)
