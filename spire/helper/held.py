"""What the helper holds for one workload, and how those who serve it learn of changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from spire.identity import Identity


@dataclass(frozen=True, slots=True)
class Granted:
    """The workload has a valid identity."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class Waiting:
    """It has none, and may get one soon: the issuer was not asked yet, or does not answer."""

    problem: str


@dataclass(frozen=True, slots=True)
class Refused:
    """It has none, and the issuer says that it shall have none."""

    problem: str


Held: TypeAlias = Granted | Waiting | Refused

T = TypeVar("T")


class Latest(Generic[T]):
    """A value that changes; who follows it slowly misses the values in between."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._changed = asyncio.Event()

    @property
    def value(self) -> T:
        """The newest."""
        return self._value

    def set(self, value: T) -> None:
        """Change it and wake those who follow."""
        self._value = value
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self) -> AsyncIterator[T]:
        """The value, and the newest one after each change, for ever."""
        while True:
            changed = self._changed
            yield self._value
            await changed.wait()
