"""More than there should be: a backlog of 100,000 readings at start, and a device that floods."""

from __future__ import annotations

import time
from pathlib import Path

from tests.faults.publisher import DEVICES
from tests.faults.site import Publisher, judge, site, until

_BACKLOG = 100_000
_ALLOWED = 100
"""Messages a second of one device."""
_ONE_READ = (256 << 10) // 200
"""Messages that a read of its socket may hold; they are paid for afterwards."""


def test_a_backlog_of_a_hundred_thousand_readings_is_delivered_at_start(tmp_path: Path) -> None:
    with site(tmp_path, rate=1e6) as running:
        running.sink.behave("500")
        until(lambda: len(running.publisher.owed()) - len(running.sink.arrived()) > _BACKLOG, what="the backlog")
        owed = running.publisher.finish()
        running.relay.kill()
        running.sink.behave()
        running.relay.start()
        judge(owed, running.sink, faults=1)


def test_a_device_at_fifty_times_its_rate_is_held_to_it_and_the_others_are_not(tmp_path: Path) -> None:
    calm, calm_rate = range(1, DEVICES), _ALLOWED / 4
    with site(tmp_path, listen_rate=_ALLOWED, rate=calm_rate * len(calm), devices=calm) as running:
        started = time.monotonic()
        flood = Publisher(tmp_path, running.relay.port, rate=50 * _ALLOWED, devices=[0], window=60_000)
        try:
            until(flood.owed, what="an acknowledgement of the flood")
            before = len(running.publisher.owed())
            until(lambda: len(running.publisher.owed()) - before > 3 * calm_rate * len(calm), what="the calm devices")
            flooded, seconds = len(flood.owed()), time.monotonic() - started
            # Twice its rate at once, and from then on its rate.
            assert flooded <= _ALLOWED * (2 + seconds) + _ONE_READ
            assert running.relay.metric("fluidos_edge_relay_devices_throttled_total") > 0
        finally:
            flood.child.kill()
        judge(flood.owed() | running.publisher.finish(), running.sink, faults=0)
