"""Many sensors that publish at a set rate, one after the other in turns, until enough or until told to stop."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from threading import Event
from typing import Final, TextIO

from scripts.simulator.publisher import POLL_SECONDS, Publisher
from scripts.simulator.readings import Source

SETTLE_SECONDS: Final = 10.0


class Fleet:
    """What is published, and what of it the brokers have acknowledged.

    Args:
        sources: the sensors.
        publishers: one for each connection that a source names.
        first: number of the first message of each device.
        log: gets a line `<topic> <id>` for each message that a broker has acknowledged.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        publishers: Mapping[tuple[str, str], Publisher],
        *,
        first: int = 0,
        log: TextIO | None = None,
    ) -> None:
        self.sent = 0
        self.acknowledged = 0
        self._sources = sources
        self._publishers = publishers
        self._log = log
        self._numbers: defaultdict[str, count[int]] = defaultdict(lambda: count(first))

    def run(self, *, rate: float, messages: int | None, stop: Event) -> None:
        """Publish.

        Args:
            rate: messages a second of each sensor.
            messages: of each sensor; None goes on until `stop`.
            stop: ends it early.
        """
        sensors = len(self._sources)
        steps: Iterable[int] = count() if messages is None else range(messages * sensors)
        began = time.monotonic()
        for step in steps:
            # The sensors take turns, so that they do not all speak at the same moment.
            if not self._pause(began + step / (rate * sensors), stop=stop):
                break
            self._publish(self._sources[step % sensors], stop=stop)

    def settle(self) -> None:
        """Wait at most ten seconds for the acknowledgements that are still out."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while self.acknowledged < self.sent and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            self._collect()

    def _pause(self, until: float, *, stop: Event) -> bool:
        """Wait; False when told to stop."""
        return not stop.wait(max(0.0, until - time.monotonic()))

    def _publish(self, source: Source, *, stop: Event) -> None:
        publisher = self._publishers[source.sensor.connection]
        while publisher.full:
            self._collect()
            if not publisher.patient or stop.wait(POLL_SECONDS):
                return
        message = source.message(next(self._numbers[source.sensor.device]), now=datetime.now(UTC))
        self.sent += publisher.publish(message)
        self._collect()

    def _collect(self) -> None:
        done = [message for publisher in self._publishers.values() for message in publisher.acknowledged()]
        self.acknowledged += len(done)
        if self._log and done:
            self._log.writelines(f"{message.sensor.topic} {message.id}\n" for message in done)
            self._log.flush()
