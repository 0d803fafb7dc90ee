"""Attestation between devices and the issuer: what is carried, and what a crowd at the door cannot do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from crds.errors import Retryable
from edge_resource_manager.agent.adapters.issuer import Answer
from edge_resource_manager.agent.carrier import BURST, MAX_BODY, MAX_OPEN, STRANGERS_BURST, Carrier
from spire.domain import cbor
from tests.edge_resource_manager.agent.peers import OTHER_UEID, UEID

CHALLENGE, SVID = b"\xa1enonce", b"\xa1echain"


@dataclass
class Door:
    """A broker on which nobody listens."""

    name: str = "onboarding"
    down: bool = False
    sent: list[tuple[str, bytes]] = field(default_factory=list)

    def send(self, topic: str, payload: bytes) -> None:
        if self.down:
            raise Retryable("no connection")
        self.sent.append((topic, payload))


@dataclass
class Office:
    """Issuer, devices and accounts in one: says what it is told to, and remembers what it was asked."""

    status: int = 200
    refusal: bytes = b""
    away: bool = False
    expected: set[str] = field(default_factory=lambda: {UEID})
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    async def challenge(self, ueid: str) -> Answer:
        return await self._answer("challenge", ueid, b"", CHALLENGE)

    async def evidence(self, ueid: str, body: bytes) -> Answer:
        return await self._answer("evidence", ueid, body, SVID)

    async def _answer(self, call: str, ueid: str, body: bytes, good: bytes) -> Answer:
        self.asked.append((call, ueid, body))
        await self.open.wait()
        if self.away:
            raise Retryable("refused to connect")
        return Answer(self.status, good if self.status == 200 else self.refusal)

    def expects(self, ueid: str) -> bool:
        return ueid in self.expected

    def distrust(self, ueid: str) -> None:
        self.told.append(f"distrust {ueid}")

    def believe(self, ueid: str) -> None:
        self.told.append(f"believe {ueid}")

    async def account(self, name: str, *, within: float) -> bool:
        self.told.append(f"account {name}")
        return within > 0


@dataclass
class Clock:
    now: datetime = datetime(2026, 11, 21, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def carrier(office: Office, clock: Clock) -> Carrier:
    return Carrier(office, office, account=office.account, clock=clock)


async def turn() -> None:
    """Let everything that can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_exchange_is_carried_byte_by_byte_and_the_account_is_there_before_the_svid(
    carrier: Carrier, office: Office
) -> None:
    door = Door()
    carrier.receive(door, f"attest/{UEID}/hello", b"")
    await turn()
    carrier.receive(door, f"attest/{UEID}/evidence", b"\x82\x01\x02")
    await turn()
    assert office.asked == [("challenge", UEID, b""), ("evidence", UEID, b"\x82\x01\x02")]
    assert door.sent == [(f"attest/{UEID}/challenge", CHALLENGE), (f"attest/{UEID}/svid", SVID)]
    assert office.told == [f"believe {UEID}", f"account {UEID}"]


@pytest.mark.parametrize("withdrawn", [True, False])
async def test_a_refusal_reaches_the_device_and_cuts_it_where_its_trust_went(
    carrier: Carrier, office: Office, withdrawn: bool
) -> None:
    door = Door()
    refusal: dict[str, object] = {"reason": "MeasurementUnknown", "message": "never heard of it"}
    office.status, office.refusal = 403, cbor.encode({**refusal, "withdrawn": True} if withdrawn else refusal)
    carrier.receive(door, f"attest/{UEID}/evidence", b"lie")
    await turn()
    assert door.sent == [(f"attest/{UEID}/svid", office.refusal)]
    assert office.told == ([f"distrust {UEID}"] if withdrawn else [])


@pytest.mark.parametrize("refusal", [b"", b"\xff\xff", cbor.encode([True]), cbor.encode({"withdrawn": 1})])
async def test_a_refusal_that_cannot_be_read_changes_nothing(carrier: Carrier, office: Office, refusal: bytes) -> None:
    office.status, office.refusal = 403, refusal
    carrier.receive(Door(), f"attest/{UEID}/evidence", b"x")
    await turn()
    assert office.told == []


@pytest.mark.parametrize("kind", ["hello", "evidence"])
async def test_without_the_issuer_a_device_is_told_to_try_later(carrier: Carrier, office: Office, kind: str) -> None:
    door = Door()
    office.away = True
    carrier.receive(door, f"attest/{UEID}/{kind}", b"x")
    await turn()
    ((topic, body),) = door.sent
    assert topic == f"attest/{UEID}/svid"
    told = cbor.decode(body, field="refusal", limit=1000)
    assert isinstance(told, dict)
    assert told["reason"] == "TryLater"


async def test_a_stranger_is_refused_without_asking_anybody_and_not_for_ever(carrier: Carrier, office: Office) -> None:
    door = Door()
    for _ in range(1000):
        carrier.receive(door, f"attest/{OTHER_UEID}/hello", b"")
    await turn()
    assert office.asked == []
    assert len(door.sent) == STRANGERS_BURST
    told = cbor.decode(door.sent[0][1], field="refusal", limit=1000)
    assert isinstance(told, dict)
    assert told["reason"] == "UnknownDevice"


@pytest.mark.parametrize(
    "topic", ["attest", f"attest/{UEID}", f"attest/{UEID}/svid", f"attest/{UEID}/hello/x", "x/y/z"]
)
async def test_other_topics_are_nothing(carrier: Carrier, office: Office, topic: str) -> None:
    door = Door()
    carrier.receive(door, topic, b"")
    await turn()
    assert (office.asked, door.sent) == ([], [])


@pytest.mark.parametrize("kind", ["hello", "evidence"])
async def test_what_is_too_large_is_dropped(carrier: Carrier, office: Office, kind: str) -> None:
    carrier.receive(Door(), f"attest/{UEID}/{kind}", bytes(MAX_BODY[kind] + 1))
    await turn()
    assert office.asked == []


async def test_one_exchange_of_a_device_is_open_at_a_time(carrier: Carrier, office: Office) -> None:
    office.open.clear()
    door = Door()
    for _ in range(5):
        carrier.receive(door, f"attest/{UEID}/hello", b"")
    await turn()
    assert len(office.asked) == 1
    office.open.set()
    await turn()
    assert len(door.sent) == 1


async def test_a_crowd_at_one_door_leaves_the_other_to_the_device(carrier: Carrier, office: Office) -> None:
    """Who claims a device's name at the onboarding broker cannot keep it from attesting on its own connection."""
    onboarding, data = Door("onboarding"), Door("data")
    for _ in range(100):
        carrier.receive(onboarding, f"attest/{UEID}/hello", b"")
        await turn()
    assert len(office.asked) == BURST
    carrier.receive(data, f"attest/{UEID}/hello", b"")
    await turn()
    assert len(data.sent) == 1


async def test_a_device_that_asked_too_often_is_heard_again_later(
    carrier: Carrier, office: Office, clock: Clock
) -> None:
    for _ in range(100):
        carrier.receive(Door(), f"attest/{UEID}/hello", b"")
        await turn()
    clock.now += timedelta(seconds=1)
    carrier.receive(Door(), f"attest/{UEID}/hello", b"")
    await turn()
    assert len(office.asked) == BURST + 1


async def test_no_more_exchanges_are_open_than_the_bound(carrier: Carrier, office: Office) -> None:
    office.open.clear()
    office.expected = {f"01{number:032x}" for number in range(200)}
    for ueid in office.expected:
        carrier.receive(Door(), f"attest/{ueid}/hello", b"")
    await turn()
    assert len(office.asked) == MAX_OPEN
    await carrier.close()


async def test_a_reminder_is_a_challenge_on_every_way_and_rare(carrier: Carrier, office: Office, clock: Clock) -> None:
    doors = [Door("data"), Door("onboarding", down=True)]
    await carrier.remind(doors, [UEID])
    await carrier.remind(doors, [UEID])
    assert doors[0].sent == [(f"attest/{UEID}/challenge", CHALLENGE)]
    clock.now += timedelta(minutes=6)
    await carrier.remind(doors, [UEID])
    assert len(doors[0].sent) == 2


async def test_a_reminder_that_the_issuer_did_not_answer_is_not_taken_for_given(
    carrier: Carrier, office: Office
) -> None:
    door = Door()
    office.away = True
    await carrier.remind([door], [UEID])
    office.away = False
    await carrier.remind([door], [UEID])
    assert door.sent == [(f"attest/{UEID}/challenge", CHALLENGE)]


async def test_many_devices_are_reminded_in_turns(carrier: Carrier, office: Office) -> None:
    ueids = [f"01{number:032x}" for number in range(40)]
    counts = []
    for _ in range(4):
        await carrier.remind([Door()], ueids)
        counts.append(len(office.asked))
    assert counts == [16, 32, 40, 40]
