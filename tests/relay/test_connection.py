"""A connection to the broker in a flood: by a clock of the test, since the real one depends on the machine."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from router_manager.relay.mqtt.connection import Connection
from router_manager.relay.mqtt.packets import Control, Received, Version, publish


class Clock:
    """The time of a loop, and what is to be called later."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Callable[[], object]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, _: float, callback: Callable[[], object]) -> object:
        self.timers.append(callback)
        return object()

    def ring(self) -> None:
        timers, self.timers = self.timers, []
        for timer in timers:
            timer()


class Wire(asyncio.Transport):
    """Whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.read = True

    def pause_reading(self) -> None:
        assert self.read
        self.read = False

    def resume_reading(self) -> None:
        assert not self.read
        self.read = True


class Inbox:
    """Counts."""

    messages = 0

    def receive(self, _: Connection, received: Received[Control]) -> None:
        self.messages += len(received.publishes)


class Site:
    """A connection whose bytes come from the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.wire, self.inbox = Clock(), Wire(), Inbox()
        self.connection = Connection(self.inbox, version=Version.V5, max_packet_bytes=1 << 20, on_stray=lambda _: None)
        monkeypatch.setattr(self.connection, "_loop", self.clock)
        self.connection.connection_made(self.wire)

    def come(self, *, reads: int, messages: int = 1, seconds: float = 0.0) -> None:
        """So many reads with so many messages each, with a time between them."""
        data = publish(version=Version.V5, topic="a/b", payload=b"x", packet_id=1) * messages
        for _ in range(reads):
            self.clock.now += seconds
            self.connection.data_received(data)


async def test_a_flood_in_drops_is_let_gather_and_then_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Site(monkeypatch)
    one.come(reads=31, seconds=0.00001)
    assert one.wire.read
    one.come(reads=1)
    assert (one.wire.read, one.inbox.messages) == (False, 32)
    one.clock.ring()
    assert one.wire.read


@pytest.mark.parametrize(
    "load",
    [{"reads": 1000, "seconds": 0.0001}, {"reads": 20, "messages": 500, "seconds": 0.0005}],
    ids=["10,000 a second", "large reads"],
)
async def test_who_is_not_flooded_or_reads_much_at_once_rests_never(
    monkeypatch: pytest.MonkeyPatch, load: dict[str, Any]
) -> None:
    one = Site(monkeypatch)
    one.come(**load)
    assert one.wire.read
    assert not one.clock.timers


async def test_a_rest_that_ends_does_not_read_what_is_to_wait_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Site(monkeypatch)
    one.come(reads=32)
    one.connection.pause()
    one.clock.ring()
    assert not one.wire.read
    one.connection.resume()
    assert one.wire.read


async def test_who_may_read_on_during_a_rest_waits_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Site(monkeypatch)
    one.come(reads=32)
    one.connection.pause()
    one.connection.resume()
    assert not one.wire.read
    one.clock.ring()
    assert one.wire.read
