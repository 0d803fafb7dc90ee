"""Evidence as a token: what is encoded is decoded, and other forms are refused."""

from __future__ import annotations

from contextlib import suppress

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spire.domain import cbor, cose, eat
from spire.domain.eat import Claims, DebugState
from spire.domain.errors import Malformed, Untrusted
from spire.domain.keys import Curve
from spire.domain.ueid import Ueid
from tests.spire.support import device, seeded

DEVICE = device()
KEY = DEVICE.attestation.public_key()
PAYLOAD: dict[object, object] = dict(eat.parse(DEVICE.evidence()).said._all)


def signed(payload: object, *, headers: dict[int, object] | None = None) -> bytes:
    return cose.TAG + cose.sign1(DEVICE.attestation, cbor.encode(payload), protected=headers)


@given(
    nonce=st.binary(min_size=8, max_size=64),
    ueid=st.binary(min_size=16, max_size=16).map(lambda value: Ueid(b"\x01" + value)),
    curve=st.sampled_from(Curve),
    debug=st.sampled_from(DebugState),
    name=st.text(min_size=1, max_size=40),
    version=st.none() | st.text(min_size=1, max_size=40),
    measurement=st.binary(max_size=64),
)
@settings(max_examples=60)
def test_claims_survive_the_trip(
    nonce: bytes, ueid: Ueid, curve: Curve, debug: DebugState, name: str, version: str | None, measurement: bytes
) -> None:
    claims = Claims(
        nonce=nonce,
        ueid=ueid,
        key=seeded("any", curve).public_key(),
        debug=debug,
        software_name=name,
        software_version=version,
        measurement=measurement,
    )
    token = eat.parse(eat.encode(claims, key=DEVICE.attestation, chain=DEVICE.chain))
    assert token.chain == DEVICE.chain
    assert token.nonce == nonce
    assert token.claims(KEY) == claims


def test_a_token_can_travel_without_its_chain_or_with_one_certificate() -> None:
    for chain in ((), DEVICE.chain[:1]):
        assert eat.parse(eat.encode(DEVICE.claims, key=DEVICE.attestation, chain=chain)).chain == chain
    assert eat.parse(signed(PAYLOAD, headers={33: b"alone"})).chain == (b"alone",)


def test_a_chain_may_also_stand_in_the_header_that_is_not_signed() -> None:
    parts = cbor2.loads(eat.encode(DEVICE.claims, key=DEVICE.attestation, chain=())).value
    moved = [parts[0], {33: list(DEVICE.chain)}, *parts[2:]]
    token = eat.parse(cbor2.dumps(cbor2.CBORTag(18, moved)))
    assert token.chain == DEVICE.chain
    assert token.claims(KEY) == DEVICE.claims


def test_another_key_did_not_sign() -> None:
    with pytest.raises(Untrusted):
        eat.parse(DEVICE.evidence()).claims(seeded("another").public_key())


def test_claims_of_others_are_left_alone() -> None:
    others: dict[object, object] = {6: 1, 261: 17, "vendor": [1]}
    assert eat.parse(signed({**PAYLOAD, **others})).claims(KEY) == DEVICE.claims


@pytest.mark.parametrize("label", [8, 10, 256, 263, 265, 270, 273])
def test_a_claim_that_the_profile_needs_must_be_there_and_of_its_type(label: int) -> None:
    values: tuple[object, ...] = (None, 1.5, [], "", True, b"", {}, -1)
    for value in values:
        with pytest.raises(Malformed):
            eat.parse(signed({**PAYLOAD, label: value})).claims(KEY)


@pytest.mark.parametrize(
    "change",
    [
        {265: "tag:somebody,2026:else"},
        {10: bytes(7)},
        {10: bytes(65)},
        {10: [bytes(32), bytes(32)]},
        {263: 5},
        {270: "x" * 129},
        {271: []},
        {271: [5]},
        {271: ["1.2", "x"]},
        {271: "1.2"},
        {273: [[42, bytes(32)], [42, bytes(32)]]},
        {273: [[60, bytes(32)]]},
        {8: {3: b"kid"}},
        {8: {1: {1: 2, -1: 1}}},
    ],
)
def test_claims_in_other_forms_are_malformed(change: dict[object, object]) -> None:
    with pytest.raises(Malformed):
        eat.parse(signed({**PAYLOAD, **change})).claims(KEY)


@pytest.mark.parametrize("headers", [{4: b"kid"}, {3: 60}, {33: []}, {33: [1]}, {33: "x"}, {33: [[b"x"]]}])
def test_headers_that_we_do_not_know_are_refused(headers: dict[int, object]) -> None:
    if headers == {33: []}:
        assert eat.parse(signed(PAYLOAD, headers=headers)).chain == ()
        return
    with pytest.raises(Malformed, match="eat"):
        eat.parse(signed(PAYLOAD, headers=headers))


def test_other_wrappings_are_refused() -> None:
    token = DEVICE.evidence()
    for wrong in (
        token[1:],
        b"\xd8\x3d" + token,
        b"\xd2" + token,
        token + b"\x00",
        token[:-1],
        b"",
        b"\xd2",
        b"\xd1" + token[1:],
    ):
        with pytest.raises(Malformed):
            eat.parse(wrong)
    with pytest.raises(Malformed, match="at most"):
        eat.parse(b"\xd2" + b"\x81" * 10_000_000)


@given(st.binary(max_size=100), st.sampled_from([b"", b"\xd2", b"\xd2\x84"]))
@settings(max_examples=300)
def test_any_bytes_are_a_token_or_malformed(data: bytes, start: bytes) -> None:
    with suppress(Malformed):
        eat.parse(start + data)


@given(
    st.dictionaries(st.sampled_from(list(PAYLOAD)), st.none() | st.integers() | st.binary() | st.lists(st.integers()))
)
@settings(max_examples=150)
def test_any_claims_are_read_or_malformed(change: dict[object, object]) -> None:
    change = {label: value for label, value in change.items() if not isinstance(value, int) or abs(value) < 2**63}
    with suppress(Malformed):
        eat.parse(signed({**PAYLOAD, **change})).claims(KEY)
