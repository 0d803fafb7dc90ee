"""Challenges: each is answered once, in time, and by whom it was given to."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from crds.errors import InvalidField
from spire.domain.errors import Reason, Untrusted

NONCE_SIZE: Final = 32
LIFETIME: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class _Given:
    peer: str
    until: datetime


class Nonces:
    """The challenges that are open, in the order in which they were given.

    Full, it forgets the oldest. Asking is free for anybody, so refusing instead would let a flood lock everybody out,
    while an honest device answers long before a flood of `capacity` has passed.
    """

    def __init__(self, *, capacity: int = 65536, lifetime: timedelta = LIFETIME) -> None:
        """Start with none.

        Args:
            capacity: how many may be open.
            lifetime: how long each stays open.
        """
        self._capacity = capacity
        self._lifetime = lifetime
        self._given: OrderedDict[bytes, _Given] = OrderedDict()

    def __len__(self) -> int:
        return len(self._given)

    def give(self, nonce: bytes, *, peer: str, now: datetime) -> bytes:
        """Open a challenge.

        Args:
            nonce: 32 bytes from a cryptographic source of randomness.
            peer: who asked: only evidence that comes the same way answers it (a device id, a connection).
            now: the time.

        Returns:
            The nonce, to be sent.

        Raises:
            InvalidField: not 32 bytes.
        """
        if len(nonce) != NONCE_SIZE:
            raise InvalidField(field="nonce", value=nonce, expected=f"{NONCE_SIZE} bytes")
        while self._given and (len(self._given) >= self._capacity or self._oldest().until <= now):
            self._given.popitem(last=False)
        self._given[nonce] = _Given(peer, now + self._lifetime)
        return nonce

    def check(self, nonce: bytes, *, peer: str, now: datetime) -> None:
        """Whether an answer to this challenge is awaited; spends nothing, so it can stand before the expensive checks.

        Raises:
            Untrusted: it was not given to this peer, has been answered, or is too old.
        """
        given = self._given.get(nonce)
        if given is None or given.peer != peer:
            raise Untrusted(Reason.NONCE_REFUSED, "the nonce was not given to this device, or has been used")
        if now >= given.until:
            raise Untrusted(Reason.NONCE_REFUSED, f"the nonce is older than {self._lifetime.total_seconds():g} s")

    def redeem(self, nonce: bytes, *, peer: str, now: datetime) -> None:
        """Take an answer; the next one to the same challenge is refused.

        Raises:
            Untrusted: as `check`.
        """
        self.check(nonce, peer=peer, now=now)
        del self._given[nonce]

    def _oldest(self) -> _Given:
        return next(iter(self._given.values()))
