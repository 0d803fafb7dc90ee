"""The event stream: REFRESH and WITHDRAW to every subscriber, without ever waiting for one.

A subscriber hears of what its trust domain may see; when the policy on that changes, all streams end, and who comes
back lists again. What a subscriber has not read yet is kept by flavor, the newest event alone: a flavor that changes
ten times meanwhile is one event. A subscriber that falls behind by too many flavors is cut off as well.
"""

from __future__ import annotations

import asyncio

from edge_resource_manager.gateway import metrics
from spire.domain.spiffe_id import TrustDomain

MAX_SUBSCRIBERS = 64
MAX_PENDING = 8192


class Subscription:
    """One reader's share of the events.

    Attributes:
        viewer: for whom it reads; None where nobody proves anything.
        is_open: whether anything can come.
    """

    def __init__(self, viewer: TrustDomain | None, *, max_pending: int) -> None:
        self.viewer = viewer
        self._max_pending = max_pending
        self._pending: dict[str, bytes] = {}
        self._wake = asyncio.Event()
        self.is_open = True

    def offer(self, flavor_id: str, line: bytes) -> None:
        """Put the newest event of a flavor last."""
        self._pending.pop(flavor_id, None)
        self._pending[flavor_id] = line
        if len(self._pending) > self._max_pending:
            self.close()
        self._wake.set()

    def close(self) -> None:
        """Let the reader end."""
        self.is_open = False
        self._pending.clear()
        self._wake.set()

    async def take(self, *, timeout: float) -> bytes:
        """All lines that are pending; empty when there were none for `timeout` seconds, or after the end."""
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return b""
        self._wake.clear()
        lines = b"".join(self._pending.values())
        self._pending.clear()
        return lines


class Hub:
    """All subscriptions.

    Attributes:
        max_subscribers: at a time.
        max_pending: flavors that a subscriber may be behind.
    """

    def __init__(self) -> None:
        self.max_subscribers = MAX_SUBSCRIBERS
        self.max_pending = MAX_PENDING
        self._subscriptions: set[Subscription] = set()

    def __len__(self) -> int:
        return len(self._subscriptions)

    @property
    def viewers(self) -> set[TrustDomain | None]:
        """For whom anybody reads."""
        return {subscription.viewer for subscription in self._subscriptions}

    def publish(self, flavor_id: str, line: bytes, *, viewer: TrustDomain | None) -> None:
        """To everybody who reads for `viewer`; `line` ends with a newline."""
        for subscription in self._subscriptions:
            if subscription.viewer == viewer:
                subscription.offer(flavor_id, line)

    def subscribe(self, viewer: TrustDomain | None) -> Subscription | None:
        """A new subscription, or None when there are as many as there may be."""
        if len(self._subscriptions) >= self.max_subscribers:
            return None
        subscription = Subscription(viewer, max_pending=self.max_pending)
        self._subscriptions.add(subscription)
        metrics.SUBSCRIBERS.set(len(self._subscriptions))
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """The reader is gone."""
        self._subscriptions.discard(subscription)
        metrics.SUBSCRIBERS.set(len(self._subscriptions))

    def close(self) -> None:
        """End all streams."""
        for subscription in self._subscriptions:
            subscription.close()
