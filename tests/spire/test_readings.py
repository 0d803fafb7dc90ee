"""Readings that their device signed, and what is done to them on the way."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_der_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.models.dataroute import ResolvedSource
from crds.models.shaping import LineProtocol
from router_manager.domain.encoding import Form, framed, write, writers
from router_manager.domain.payload import Record
from scripts.sink.bodies import line_fields
from spire.domain import cbor
from spire.domain.errors import Malformed, Reason, Untrusted
from spire.domain.keys import PrivateKey
from spire.domain.spiffe_id import TrustDomain
from spire.identity import Svid
from spire.readings import Replays, VerifiedReading, sign, verify
from tests.spire.pki import Ca, bundles_of

NOW = datetime.now(UTC).replace(microsecond=0)
SITE, OTHER = Ca.of("site.test"), Ca.of("other.test")
BUNDLES = bundles_of(SITE, OTHER)
A, B = (f"/device/01{letter * 16}/app/thermo" for letter in ("aa", "bb"))


def svid(ca: Ca = SITE, path: str = A, **rest: Any) -> Svid:
    """Valid around NOW, whenever the test runs."""
    return ca.svid(path, **{"not_before": NOW - timedelta(hours=1), "not_after": NOW + timedelta(hours=1)} | rest)


SVID = svid()
READING = b'{"id": "a-1", "temperature": 20.5, "sentAt": "2026-11-21T12:00:00Z"}'


def private(signer: Svid) -> PrivateKey:
    key = load_der_private_key(signer.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey)
    return key


def message(payload: bytes = READING, *, by: Svid = SVID, sequence: int = 1, time: datetime = NOW) -> bytes:
    return sign(payload, key=private(by), chain=by.chain, sensor="s1", sequence=sequence, time=time)


def refused(data: bytes, *, now: datetime = NOW, max_age: timedelta | None = None) -> str:
    with pytest.raises((Malformed, Untrusted)) as caught:
        verify(data, bundles=BUNDLES, now=now, max_age=max_age)
    return caught.value.reason


@pytest.mark.parametrize("key", [None, ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())])
def test_a_receiver_knows_who_said_what_and_when(key: ec.EllipticCurvePrivateKey | None) -> None:
    signer = svid(key=key)
    assert verify(message(by=signer, sequence=7), bundles=BUNDLES, now=NOW) == VerifiedReading(
        spiffe_id=signer.spiffe_id, sensor="s1", payload=READING, sequence=7, time=NOW
    )


def test_members_of_a_reading_stand_in_the_clear_for_filters() -> None:
    said = orjson.loads(message())
    assert said.items() > orjson.loads(READING).items()


@pytest.mark.parametrize("payload", [b"", b"\x00\xff", b"20.5", b"[1, 2]", b'"text"', b"null", b"{}"])
def test_any_bytes_can_be_signed(payload: bytes) -> None:
    assert verify(message(payload), bundles=BUNDLES, now=NOW).payload == payload


@pytest.mark.parametrize("encoding", ["JSONArray", "NDJSON"])
def test_relays_carry_signed_readings_byte_for_byte(encoding) -> None:  # type: ignore[no-untyped-def]  # a Literal
    sent = [message(), message(b"\x00\xff", sequence=2)]
    records = [Record(number, 0, "t", each) for number, each in enumerate(sent)]
    body = framed(write(records, carrier=encoding).parts, encoding)
    split = body[1:-1].replace(b"},{", b"}\n{") if encoding == "JSONArray" else body
    assert split.strip().split(b"\n") == sent


@pytest.mark.parametrize(
    ("payload", "refusal"),
    [
        (READING, None),
        (b'{"id": "a-1", "at": {"x": 1}}', Reason.CLAIM_CONTRADICTED),
        (b'{"id": "a-1", "seen": [1]}', Reason.CLAIM_CONTRADICTED),
        (b'{"id": "a-1", "note": null}', Reason.CLAIM_CONTRADICTED),
    ],
)
def test_line_protocol_leaves_only_flat_readings_verifiable(payload: bytes, refusal: Reason | None) -> None:
    source = ResolvedSource(flavor="f", device="d", sensor="s", model="m", provider="p", node="n", topic="t")
    lines = writers(Form(line=LineProtocol()), {"t": source})
    body = write([Record(1, 0, "t", message(payload))], carrier="InfluxLine", writers=lines)
    received = orjson.dumps(line_fields(body.parts[0].decode().strip()))
    if refusal is None:
        assert verify(received, bundles=BUNDLES, now=NOW).payload == payload
    else:
        assert refused(received) == refusal


def test_no_byte_can_be_changed() -> None:
    good = message()
    for position in range(len(good)):
        changed = bytearray(good)
        changed[position] ^= 1 << (position % 8)
        try:
            said = verify(bytes(changed), bundles=BUNDLES, now=NOW)
        except (Malformed, Untrusted):
            continue
        # Another spelling of the same JSON.
        assert said.payload == READING
        assert orjson.loads(bytes(changed)) == orjson.loads(good)


def test_the_clear_cannot_contradict_what_was_signed() -> None:
    said = orjson.loads(message())
    for lie in ({**said, "temperature": 99}, {**said, "more": 1}, {"signed": said["signed"]}):
        assert refused(orjson.dumps(lie)) == Reason.CLAIM_CONTRADICTED


def test_another_device_cannot_sign_for_this_one() -> None:
    stranger = svid(path=B)
    assert refused(message(by=replace(stranger, chain=SVID.chain))) == Reason.BAD_SIGNATURE
    assert verify(message(by=stranger), bundles=BUNDLES, now=NOW).spiffe_id.path == B


def test_another_trust_domain_cannot_sign_for_this_one() -> None:
    assert refused(message(by=svid(OTHER, trust_domain=TrustDomain("site.test")))) == Reason.CHAIN_BROKEN
    assert refused(message(by=svid(Ca.of("nowhere.test")))) == Reason.TRUST_DOMAIN_UNKNOWN


def test_only_devices_sign_readings() -> None:
    assert refused(message(by=svid(path="/relay/edge-1"))) == Reason.PEER_REFUSED


def test_the_svid_has_to_be_valid_when_it_signs() -> None:
    over = svid(not_before=NOW - timedelta(hours=2), not_after=NOW - timedelta(hours=1))
    assert refused(message(by=over)) == Reason.NOT_VALID_NOW
    early = svid(not_before=NOW + timedelta(minutes=1), not_after=NOW + timedelta(hours=1))
    assert refused(message(by=early)) == Reason.NOT_VALID_NOW


def test_a_reading_may_have_waited_for_longer_than_its_svid_lived() -> None:
    old = message(time=NOW)
    late = NOW + timedelta(hours=20)
    assert verify(old, bundles=BUNDLES, now=late).time == NOW
    assert refused(old, now=late, max_age=timedelta(hours=19)) == Reason.EXPIRED


def test_nothing_comes_from_the_future() -> None:
    assert refused(message(time=NOW + timedelta(minutes=6))) == Reason.NOT_VALID_NOW


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"signed": 1}',
        b'{"signed": ""}',
        b'{"signed": "!!!!"}',
        b'{"signed": "0oRDoQEmoEA="}',
        b'{"signed": "' + b"A" * (1 << 20) + b'"}',
        b'{"signed": ' + b"[" * 5000,
        orjson.dumps({"signed": b64encode(b"\x81" * 100_000).decode()}),
        message()[:-1],
        message() + b"x",
    ],
)
def test_garbage_is_malformed(data: bytes) -> None:
    assert refused(data) == Reason.MALFORMED


def parts(data: bytes) -> list[object]:
    value = cbor.decode(b64decode(orjson.loads(data)["signed"]), field="test", limit=1 << 20)
    assert isinstance(value, list)
    return value


def rewritten(change: Callable[[list[object]], None]) -> bytes:
    """The message with another COSE_Sign1, in the clear what it was."""
    said, signed = orjson.loads(message()), parts(message())
    change(signed)
    return orjson.dumps({**said, "signed": b64encode(cbor.encode(signed)).decode()})


def test_headers_count_only_under_the_signature() -> None:
    def move(signed: list[object]) -> None:
        protected = cbor.decode(bytes(signed[0]), field="test", limit=1 << 20)  # type: ignore[call-overload]  # a byte string
        assert isinstance(protected, dict)
        signed[1] = {33: protected.pop(33)}
        signed[0] = cbor.encode(protected)

    def add(signed: list[object]) -> None:
        signed[1] = {4: b"key"}

    assert refused(rewritten(move)) == Reason.MALFORMED
    assert refused(rewritten(add)) == Reason.MALFORMED


def test_base64_has_one_spelling() -> None:
    said = orjson.loads(message(b"x"))
    text = said["signed"]
    for other in (text + "\n", text.rstrip("=") if text.endswith("=") else text + "====", text[:4] + " " + text[4:]):
        assert refused(orjson.dumps({"signed": other})) == Reason.MALFORMED


def test_a_reading_cannot_have_a_signature_as_a_member() -> None:
    with pytest.raises(Malformed):
        message(b'{"signed": "x"}')


def reading(sequence: int, sensor: str = "s1") -> VerifiedReading:
    return VerifiedReading(spiffe_id=SVID.spiffe_id, sensor=sensor, payload=b"", sequence=sequence, time=NOW)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 500)))
def test_a_reading_is_new_once(sequences: list[int]) -> None:
    replays, seen = Replays(), set[int]()
    for sequence in sequences:
        assert replays.is_new(reading(sequence)) == (sequence not in seen)
        seen.add(sequence)


def test_what_is_older_than_the_window_is_not_new() -> None:
    replays = Replays()
    assert replays.is_new(reading(5000))
    assert replays.is_new(reading(5000 - 1023))
    assert not replays.is_new(reading(5000 - 1024))
    assert replays.is_new(reading(1, "s2")), "each sensor counts for itself"
    assert replays.is_new(reading(2**63 - 1))


def test_memory_of_replays_is_bounded() -> None:
    replays = Replays(capacity=2)
    for sensor in ("s1", "s2", "s3"):
        assert replays.is_new(reading(1, sensor))
    assert not replays.is_new(reading(1, "s3"))
    assert replays.is_new(reading(1, "s1")), "forgotten"
