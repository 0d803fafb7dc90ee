"""How many batches are on their way to one origin at a time: thousands of lanes may lead to one server."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

AT_ONCE = 128
"""More connections make no server faster, and each request slower, whose time limit is for the answer alone."""


class Turns:
    """Who has waited longest is next, so that every lane gets its turn."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._of_origin: WeakValueDictionary[tuple[str, str], asyncio.Semaphore] = WeakValueDictionary()

    def of(self, location: str) -> asyncio.Semaphore:
        """To be held while a batch is on its way to a URL; keeps no other origin waiting."""
        origin = _origin(location)
        turn = self._of_origin.get(origin)
        if turn is None:
            turn = self._of_origin[origin] = asyncio.Semaphore(self._at_once)
        return turn


@lru_cache(maxsize=8192)
def _origin(location: str) -> tuple[str, str]:
    whole = urlsplit(location)
    return whole.scheme, whole.netloc.lower()
