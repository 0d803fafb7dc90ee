"""MQTT targets: one message a reading, at QoS 1, to another cluster's broker.

A batch is delivered when the broker has acknowledged all of it. Who the broker is was proven in the handshake
(`contexts`), and the relay shows it its SVID.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from secrets import token_hex
from ssl import SSLContext, create_default_context

from crds.egress import EgressPolicy, host_and_port
from crds.models.addresses import Mqtt
from router_manager.domain.batching import Answer, Failure, Receipts
from router_manager.domain.table import Way
from router_manager.relay.contexts import Contexts
from router_manager.relay.dial import dial
from router_manager.relay.mqtt.packets import Version
from router_manager.relay.targets.base import Batch
from router_manager.relay.targets.credentials import Credential, Credentials
from router_manager.relay.targets.publisher import Publisher, reason_of

_VERSIONS = {"3.1.1": Version.V311, "5": Version.V5}
_PASSING = frozenset({0x80, 0x83, 0x91, 0x97})
"""Codes of a PUBACK that are not about the message: unspecified, the broker's own, packet id in use, quota exceeded."""
_OVERHEAD_BYTES = 16
"""Of a PUBLISH beside topic and payload, at most: fixed header, lengths, packet id, properties."""


@dataclass(frozen=True, slots=True)
class _Place:
    """What lanes have to have in common to share a connection. A context is of one expectation, and of one SVID."""

    url: str
    version: str
    context: SSLContext | None
    credential: Credential | None


class MqttExit:
    """See Exit."""

    def __init__(
        self, policy: EgressPolicy, contexts: Contexts, credentials: Credentials, *, timeout_seconds: float
    ) -> None:
        """Prepare.

        Args:
            policy: where brokers may be.
            contexts: who they have to be.
            credentials: that routes may name.
            timeout_seconds: to connect, and for the acknowledgement of a message.
        """
        self._policy = policy
        self._contexts = contexts
        self._credentials = credentials
        self._timeout_seconds = timeout_seconds
        self._opening: dict[_Place, asyncio.Task[Publisher]] = {}

    async def send(self, batch: Batch) -> Answer:
        """See Exit."""
        try:
            publisher = await self._publisher(batch.way)
            return await self._publish(publisher, batch)
        except TimeoutError:
            return Failure("the broker did not answer in time")
        except OSError as error:
            return Failure(str(error) or type(error).__name__)

    async def close(self) -> None:
        """See Exit."""
        for opening in self._opening.values():
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                opening.result().close()
            opening.cancel()
        await asyncio.sleep(0)  # transports close with the next round of the loop

    async def _publish(self, publisher: Publisher, batch: Batch) -> Answer:
        topics = topics_of(batch)
        refused: dict[int, str] = {}
        sent: list[int] = []
        most = publisher.max_packet_bytes
        for index, (topic, part) in enumerate(zip(topics, batch.parts, strict=True)):
            size = len(topic.encode()) + len(part) + _OVERHEAD_BYTES
            if topic.startswith("$"):
                refused[index] = f"topic {topic}: those with $ are the broker's own"
            elif most is not None and size > most:
                refused[index] = f"a packet of {size} bytes: the broker takes {most}"
            else:
                sent.append(index)
        messages = [(topics[index], batch.parts[index]) for index in sent]
        codes = await publisher.publish(messages, patience_seconds=self._timeout_seconds) if messages else []
        for index, code in zip(sent, codes, strict=True):
            if code in _PASSING:
                return Failure(f"the broker does not take messages now: {reason_of(code)}")
            if code >= 0x80:
                refused[index] = f"PUBACK {reason_of(code)}"
        return Receipts(tuple(sorted(refused.items())))

    async def _publisher(self, way: Way) -> Publisher:
        address = way.address
        assert isinstance(address, Mqtt)  # noqa: S101 - Exits hands over by type
        credential = self._credentials.of(way)
        place = _Place(address.url, address.version, self._contexts.of(way.peer, address.url), credential)
        opening = self._opening.get(place)
        if opening is None or (opening.done() and not _usable(opening)):
            self._opening = {where: task for where, task in self._opening.items() if not task.done() or _usable(task)}
            opening = self._opening[place] = asyncio.create_task(self._open(place))
        # A lane that ends must not take the connection from the others.
        return await asyncio.shield(opening)

    async def _open(self, place: _Place) -> Publisher:
        host, port = host_and_port(place.url)
        secure = place.url.startswith("mqtts://")
        version = _VERSIONS[place.version]
        async with asyncio.timeout(self._timeout_seconds):
            publisher = await dial(
                lambda: Publisher(version),
                host,
                port,
                context=(place.context or create_default_context()) if secure else None,
                policy=self._policy,
                seconds=self._timeout_seconds / 2,
            )
            try:
                # No more than 23 characters, which every broker takes (MQTT 3.1.1 section 3.1.3.1); nobody else's.
                await publisher.open(client_id=f"relay-{token_hex(8)}", credential=place.credential)
            except BaseException:
                publisher.close()
                raise
        return publisher


def topics_of(batch: Batch) -> list[str]:
    """The target's topic for each record."""
    address = batch.way.address
    assert isinstance(address, Mqtt)  # noqa: S101 - as above
    made: dict[str, str] = {}
    for record in batch.records:
        if record.topic not in made:
            source = batch.way.feeds[record.topic].source
            topic = address.topic.replace("{device}", source.device).replace("{flavor}", source.flavor)
            made[record.topic] = topic.replace("{topic}", record.topic)
    return [made[record.topic] for record in batch.records]


def _usable(opening: asyncio.Task[Publisher]) -> bool:
    return not opening.cancelled() and opening.exception() is None and opening.result().ended is None
