"""One idempotent producer, whose reports are read by the event loop.

librdkafka calls back from `poll`, and takes the interpreter for each report. A thread of its own would wait for it up
to a switch interval (5 ms) a report while the loop is busy, so the loop polls by itself while something is in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias

import confluent_kafka
import structlog
from confluent_kafka import KafkaError

from router_manager.domain.batching import Answer, Failure, Receipts

log = structlog.get_logger(__name__)

_LEAST_POLL_SECONDS = 0.001
_MOST_POLL_SECONDS = 0.05
_MAX_IN_FLIGHT = 100_000
_REFUSALS: Final = frozenset(
    {
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - the library's name for what it finds out by itself
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.POLICY_VIOLATION,
    }
)
"""What no further try changes, as with a 4xx of HTTP."""

SETTINGS: Final = {
    "enable.idempotence": True,
    "acks": "all",
    # It never gives a message up: a try of its own keeps the sequence number, so the broker knows it, and the order
    # holds. One of ours would double it.
    "message.timeout.ms": 0,
    # What comes together was gathered by the pump.
    "linger.ms": 0,
    # The broker decides what is too large; batches stay small enough for every broker that did not lower its limit.
    "message.max.bytes": 4 << 20,
    "batch.size": 256 << 10,
    "queue.buffering.max.messages": 2 * _MAX_IN_FLIGHT,
    "topic.metadata.propagation.max.ms": 5_000,
}

Header: TypeAlias = "tuple[str, str | bytes | None]"
Message: TypeAlias = "tuple[bytes, bytes, list[Header]]"
"""One record to be: key, value, headers."""


class Delivery:
    """What the cluster says of one batch."""

    __slots__ = ("_failed", "_left", "_refused", "answered")

    def __init__(self, messages: int) -> None:
        self.answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._left = messages
        self._refused: list[tuple[int, str]] = []
        self._failed = ""

    def report(self, index: int, error: KafkaError | None, _: object = None) -> None:
        """Of one message; called back by librdkafka."""
        if error is not None:
            if error.code() in _REFUSALS:
                self._refused.append((index, f"Kafka: {error.str()}"))
            else:
                self._failed = f"Kafka: {error.str()}"
        self._left -= 1
        if not self._left and not self.answered.done():
            refused = Receipts(tuple(sorted(self._refused)))
            self.answered.set_result(Failure(self._failed) if self._failed else refused)


class Producer:
    """For all lanes to one cluster: it keeps the order of what has the same key."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        """Prepare; connections are made when they are needed.

        Raises:
            confluent_kafka.KafkaException: librdkafka refuses a setting, such as a certificate.
        """
        self.problem = ""
        """What the client last said of its brokers, since something was last sent."""
        self.fatal = False
        """It is of no more use, as was seen so far; see `works`."""
        self._client = confluent_kafka.Producer({**SETTINGS, **configuration, "error_cb": self._note})
        self._serving: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Too much is on its way."""
        return len(self._client) >= _MAX_IN_FLIGHT

    def works(self) -> bool:
        """Look whether it is still of use."""
        self._poll()
        return not self.fatal

    def produce(self, topic: str, messages: Sequence[Message]) -> Delivery:
        """Send messages to a topic, in this order."""
        self.problem = ""
        delivery = Delivery(len(messages))
        produce, report = self._client.produce, delivery.report
        for index, (key, value, headers) in enumerate(messages):
            try:
                produce(topic, value, key, headers=headers, on_delivery=partial(report, index))
            except confluent_kafka.KafkaException as error:
                report(index, error.args[0])
            except BufferError:
                report(index, KafkaError(KafkaError._QUEUE_FULL))  # noqa: SLF001 - as above
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        return delivery

    def purge(self) -> None:
        """Give up what is on its way; it is reported as failed."""
        self._client.purge(blocking=False)

    async def close(self, seconds: float) -> None:
        """Wait at most so long for what is on its way, give up the rest, and disconnect."""
        if self._serving is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await asyncio.shield(self._serving)
            self.purge()
            await self._serving
        with suppress(confluent_kafka.KafkaException):  # says again why it is of no more use
            await asyncio.to_thread(self._client.close)

    async def _serve(self) -> None:
        pause = _LEAST_POLL_SECONDS
        while len(self._client):
            pause = _LEAST_POLL_SECONDS if self._poll() else min(1.5 * pause, _MOST_POLL_SECONDS)
            await asyncio.sleep(pause)

    def _poll(self) -> int:
        """Let it call back; how many reports there were."""
        try:
            return self._client.poll(0)
        except confluent_kafka.KafkaException as error:  # raised for what ends it, which `error_cb` is not told
            self._note(error.args[0])
            self.purge()
            return 0

    def _note(self, error: KafkaError) -> None:
        self.fatal = self.fatal or error.fatal()
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 - says no more than what it says of each
            return
        # Each try has a time of its own in it: "(after 5ms in state SSL_HANDSHAKE)".
        problem = f"Kafka: {error.str().partition(' (after ')[0]}"
        if problem != self.problem:
            log.warning("a Kafka cluster is disturbed", error=problem)
        self.problem = problem
