"""Contracts and their signatures: whatever is changed on the way shows."""

import json
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.errors import InvalidField, Terminal
from edge_resource_manager.domain.canonical import MAX_DEPTH, canonical
from edge_resource_manager.domain.signature import is_by, sign, verify
from spire.domain.errors import Reason, Untrusted
from tests.edge_resource_manager.gateway.test_wire import json_values
from tests.spire.pki import HOUR, Ca, Key, bundles_of, usage

SELLER, OTHER = Ca.of("provider"), Ca.of("other")
SVID = SELLER.svid("/manager/rear-gateway")
CONTRACT: dict[str, Any] = {
    "contractID": "contract-1",
    "flavor": {"flavorID": "f", "timestamp": "2026-11-21T12:00:00Z", "price": {"amount": "1"}},
    "configuration": {"data": {"endpoints": [{"url": "http://192.0.2.7/"}], "filter": {"maxPerSecond": 1.0}}},
}
KNOWN = bundles_of(SELLER, OTHER)


def now() -> datetime:
    return datetime.now(UTC)


def signed(contract: dict[str, Any] = CONTRACT) -> str:
    return sign(contract, svid=SVID, now=now())


def refused(mark: str, contract: dict[str, Any] = CONTRACT, **changed: Any) -> Reason:
    with pytest.raises(Untrusted) as caught:
        verify(mark, contract, **{"bundles": KNOWN, "now": now(), **changed})
    return Reason(caught.value.reason)


# Numbers of RFC 8785, appendix B.
@pytest.mark.parametrize(
    ("bits", "text"),
    [
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("ffefffffffffffff", "-1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("c340000000000000", "-9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("44b52d02c7e14af7", "1.0000000000000001e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef4f", "999999999999999900000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("41b3de4355555557", "333333333.33333343"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_numbers_are_written_as_rfc_8785_has_them(bits: str, text: str) -> None:
    assert canonical(struct.unpack(">d", bytes.fromhex(bits))[0]).decode() == text


def test_members_are_sorted_and_texts_escaped_as_rfc_8785_has_them() -> None:
    # Sections 3.2.2 and 3.2.3 of the RFC.
    value = orjson.loads(
        rb'{"numbers": [333333333.33333329, 4.50, 2e-3, 0.000000000000000000000000001],'
        rb'"string": "\u20ac$\u000F\u000aA\u0027\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}'
    )
    assert canonical(value).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    order = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "\xf6": 7}
    assert list(json.loads(canonical(order)).values()) == [2, 4, 6, 7, 1, 5, 3]


@settings(max_examples=150)
@given(json_values)
def test_the_same_value_has_the_same_form_however_it_was_written(value: Any) -> None:
    try:
        form = canonical(value)
    except InvalidField:
        return
    assert canonical(orjson.loads(form)) == form
    assert canonical(json.loads(json.dumps(value, indent=1))) == form


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, {"a": "\ud800"}, {1, 2}])
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(InvalidField):
        canonical(value)


def test_nesting_is_bounded() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(InvalidField, match="levels"):
        canonical(deep)


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()])
def test_a_signature_says_who_signed(key: Key) -> None:
    assert verify(signed(), CONTRACT, bundles=KNOWN, now=now()) == SVID.spiffe_id
    svid = SELLER.intermediate().svid("/manager/x", key=key)
    assert verify(sign(CONTRACT, svid=svid, now=now()), CONTRACT, bundles=KNOWN, now=now()) == svid.spiffe_id
    assert is_by(signed(), SVID)
    assert not is_by(signed(), svid)
    assert not is_by("", SVID)


def test_an_rsa_key_signs_no_contract() -> None:
    svid = SELLER.svid("/manager/x", key=rsa.generate_private_key(65537, 2048))
    with pytest.raises(Terminal, match="EC or Ed25519"):
        sign(CONTRACT, svid=svid, now=now())


def test_how_the_json_is_written_and_when_the_device_was_heard_of_do_not_count() -> None:
    other = json.loads(json.dumps(CONTRACT, sort_keys=True, indent=3))
    other["flavor"]["timestamp"] = "2026-11-21T13:00:00Z"
    other["configuration"]["data"]["filter"]["maxPerSecond"] = 1
    other["signature"] = "whatever"
    assert verify(signed(), other, bundles=KNOWN, now=now()) == SVID.spiffe_id


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [found for key, each in items for found in _paths(each, (*path, key))]


@pytest.mark.parametrize("path", [each for each in _paths(CONTRACT) if each != ("flavor", "timestamp")], ids=str)
def test_no_member_can_be_changed_taken_away_or_added(path: tuple[Any, ...]) -> None:
    def changed(change: Any) -> dict[str, Any]:
        copy: dict[str, Any] = json.loads(json.dumps(CONTRACT))
        holder: Any = copy
        for key in path[:-1]:
            holder = holder[key]
        change(holder, path[-1])
        return copy

    def replace(holder: Any, key: Any) -> None:
        holder[key] = "other"

    def remove(holder: Any, key: Any) -> None:
        del holder[key]

    def add(holder: Any, key: Any) -> None:
        holder.insert(0, key) if isinstance(holder, list) else holder.update(more=key)

    for change in (replace, remove, add):
        assert refused(signed(), changed(change)) is Reason.BAD_SIGNATURE


@settings(max_examples=150)
@given(st.data())
def test_no_character_of_a_signature_can_be_changed(data: st.DataObject) -> None:
    mark = signed()
    at = data.draw(st.integers(0, len(mark) - 1))
    new = data.draw(st.characters(codec="ascii"))
    if new != mark[at]:
        refused(mark[:at] + new + mark[at + 1 :])


@settings(max_examples=150)
@given(st.text(max_size=60) | st.binary(max_size=40).map(lambda head: f"{urlsafe_b64encode(head).decode()}..AA"))
def test_garbage_is_no_signature(mark: str) -> None:
    refused(mark)


def _with_header(mark: str, **changed: Any) -> str:
    head, _, rest = mark.partition(".")
    header = {**json.loads(urlsafe_b64decode(head + "==")), **changed}
    return f"{urlsafe_b64encode(orjson.dumps(header)).rstrip(b'=').decode()}.{rest}"


@pytest.mark.parametrize(
    "header",
    [{"alg": "none"}, {"alg": "HS256"}, {"alg": "ES384"}, {"alg": None}, {"x5c": []}, {"x5c": "AA"}, {"x5c": [1]}],
)
def test_a_header_that_says_something_else_is_refused(header: dict[str, Any]) -> None:
    refused(_with_header(signed(), **header))


def test_a_contract_that_has_no_canonical_form_is_refused() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    for value in (deep, float("inf"), "\ud800"):
        assert refused(signed(), {**CONTRACT, "more": value}) is Reason.BAD_SIGNATURE


def test_content_in_the_signature_is_refused() -> None:
    head, _, rest = signed().partition("..")
    assert refused(f"{head}.{urlsafe_b64encode(b'{}').decode()}.{rest}") is Reason.BAD_SIGNATURE


def test_only_a_chain_that_is_trusted_now_and_for_its_own_domain_counts() -> None:
    assert refused(signed(), bundles=bundles_of(OTHER)) is Reason.TRUST_DOMAIN_UNKNOWN
    assert refused(signed(), now=now() + 2 * HOUR) is Reason.NOT_VALID_NOW
    forged = OTHER.svid("/manager/rear-gateway", trust_domain=SELLER.trust_domain)
    assert refused(sign(CONTRACT, svid=forged, now=now())) is Reason.CHAIN_BROKEN
    authority = SELLER.svid("/manager/rear-gateway", ca=True, key_usage=usage(certifies=True))
    assert refused(sign(CONTRACT, svid=authority, now=now())) is Reason.NOT_AN_SVID
    old = SELLER.svid("/manager/x", not_before=now() - HOUR, not_after=now() - timedelta(minutes=1))
    assert refused(sign(CONTRACT, svid=old, now=now())) is Reason.NOT_VALID_NOW
