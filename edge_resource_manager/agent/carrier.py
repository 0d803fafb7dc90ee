"""Carries challenge, evidence and SVID between devices on MQTT and the issuer, and asks devices to attest again.

The bytes are the same on both ways. Anybody may knock at an onboarding broker: only devices that the node has are
heard, each of them rarely and one message of a kind at a time, and what is more is dropped without an answer. A device
may answer a reminder while its own hello is still on its way: that is no crowd.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, Protocol

import structlog

from crds.errors import InvalidField, Retryable
from edge_resource_manager.agent.adapters.issuer import Answer, Issuer
from edge_resource_manager.agent.metrics import CARRIED, DROPPED
from edge_resource_manager.agent.reasons import AgentReason
from spire.domain import cbor
from spire.domain.rates import Rates

log = structlog.get_logger(__name__)

HELLO: Final = "attest/+/hello"
EVIDENCE: Final = "attest/+/evidence"
MAX_BODY: Final = {"hello": 256, "evidence": 32768}
MAX_OPEN: Final = 64
BURST, PER_SECOND = 10.0, 1.0
STRANGERS_BURST, STRANGERS_PER_SECOND = 20.0, 2.0
ACCOUNT_SECONDS: Final = 2.0
REMIND_EVERY: Final = timedelta(minutes=5)
REMINDERS_AT_A_TIME: Final = 16

Kind = Literal["hello", "evidence"]


class Way(Protocol):
    """A connection to a broker on which devices are heard."""

    name: str

    def send(self, topic: str, payload: bytes) -> None:
        """Hand a message to the broker.

        Raises:
            Retryable: it cannot be.
        """


class Known(Protocol):
    """What the agent knows of its devices."""

    def expects(self, ueid: str) -> bool:
        """Whether the node has this device."""

    def distrust(self, ueid: str) -> None:
        """The issuer does not believe the device any more, whatever is written of it."""

    def believe(self, ueid: str) -> None:
        """The issuer believes the device."""


class Account(Protocol):
    """Whether the broker has an account of a name, or comes to have it in so many seconds."""

    async def __call__(self, name: str, *, within: float) -> bool:
        """See above."""


class Carrier:
    """One for all brokers of a node.

    Args:
        issuer: who answers.
        known: who is expected.
        account: whether a device may speak to the broker.
        clock: the time.
    """

    def __init__(
        self,
        issuer: Issuer,
        known: Known,
        *,
        account: Account,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._issuer = issuer
        self._known = known
        self._account = account
        self._clock = clock
        self._rates: Rates[tuple[str, str]] = Rates(burst=BURST, per_second=PER_SECOND, capacity=8192)
        self._strangers: Rates[str] = Rates(burst=STRANGERS_BURST, per_second=STRANGERS_PER_SECOND, capacity=8)
        self._open: dict[tuple[str, str, Kind], asyncio.Task[None]] = {}
        self._reminded: dict[tuple[str, str], datetime] = {}

    def receive(self, way: Way, topic: str, payload: bytes) -> None:
        """Take a message of a device, or of somebody who says so; never waits."""
        match topic.split("/"):
            case ["attest", ueid, "hello" | "evidence" as kind]:
                pass
            case _:
                DROPPED.labels("topic").inc()
                return
        if len(payload) > MAX_BODY[kind]:
            DROPPED.labels("size").inc()
        elif not self._known.expects(ueid):
            self._refuse_stranger(way, ueid, kind)
        elif (way.name, ueid, kind) in self._open or len(self._open) >= MAX_OPEN:
            DROPPED.labels("crowd").inc()
        elif not self._rates.allow((way.name, ueid), now=self._clock()):
            DROPPED.labels("rate").inc()
        else:
            exchange = self._hello(way, ueid) if kind == "hello" else self._evidence(way, ueid, payload)
            task = asyncio.create_task(exchange)
            self._open[way.name, ueid, kind] = task
            task.add_done_callback(lambda _: self._open.pop((way.name, ueid, kind), None))

    async def remind(self, ways: Sequence[Way], ueids: Iterable[str]) -> None:
        """Ask devices to prove themselves, each on all ways, and rarely on each, also when that comes up later."""
        now, wanted = self._clock(), {(way.name, ueid) for ueid in ueids for way in ways}
        self._reminded = {key: at for key, at in self._reminded.items() if key in wanted and now - at < REMIND_EVERY}
        due = sorted({ueid for _, ueid in wanted - self._reminded.keys()})[:REMINDERS_AT_A_TIME]
        self._reminded |= {(way.name, ueid): now for ueid in due for way in ways}
        await asyncio.gather(*(self._remind(ways, ueid) for ueid in due))

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _remind(self, ways: Sequence[Way], ueid: str) -> None:
        answer = await self._ask("reminder", self._issuer.challenge(ueid))
        if answer is None:
            for way in ways:
                self._reminded.pop((way.name, ueid), None)
        elif answer.status == 200:
            for way in ways:
                _send(way, f"attest/{ueid}/challenge", answer.body)

    async def _hello(self, way: Way, ueid: str) -> None:
        answer = await self._ask("hello", self._issuer.challenge(ueid))
        if answer is not None and answer.status == 200:
            _send(way, f"attest/{ueid}/challenge", answer.body)
        else:
            _send(way, f"attest/{ueid}/svid", answer.body if answer else _TRY_LATER)

    async def _evidence(self, way: Way, ueid: str, body: bytes) -> None:
        answer = await self._ask("evidence", self._issuer.evidence(ueid, body))
        if answer is not None and answer.status == 200:
            self._known.believe(ueid)
            if not await self._account(ueid, within=ACCOUNT_SECONDS):
                log.warning("a device gets its SVID before its account", ueid=ueid)
        elif answer is not None and _withdrawn(answer.body):
            self._known.distrust(ueid)
        _send(way, f"attest/{ueid}/svid", answer.body if answer else _TRY_LATER)

    async def _ask(self, step: str, call: Awaitable[Answer]) -> Answer | None:
        """The issuer's answer; None where it gives none."""
        try:
            answer = await call
        except Retryable as error:
            log.warning("the issuer does not answer", step=step, error=str(error))
            CARRIED.labels(step, "unavailable").inc()
            return None
        CARRIED.labels(step, str(answer.status)).inc()
        return answer

    def _refuse_stranger(self, way: Way, ueid: str, kind: Kind) -> None:
        if not self._strangers.allow(way.name, now=self._clock()):
            DROPPED.labels("rate").inc()
            return
        CARRIED.labels(kind, "unknown").inc()
        _send(way, f"attest/{ueid}/svid", _UNKNOWN)


def _send(way: Way, topic: str, payload: bytes) -> None:
    try:
        way.send(topic, payload)
    except Retryable as error:
        log.warning("an answer is lost", topic=topic, error=str(error))


def _withdrawn(body: bytes) -> bool:
    """Whether a refusal says that the device is not believed any more."""
    try:
        said = cbor.decode(body, field="refusal", limit=len(body))
    except InvalidField:
        return False
    return isinstance(said, dict) and said.get("withdrawn") is True


def _refusal(reason: AgentReason, message: str) -> bytes:
    return cbor.encode({"reason": reason.value, "message": message})


_TRY_LATER: Final = _refusal(AgentReason.TRY_LATER, "the issuer does not answer")
_UNKNOWN: Final = _refusal(AgentReason.UNKNOWN_DEVICE, "this node has no such device")
