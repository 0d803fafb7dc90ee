"""Which chains prove a SPIFFE ID."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given, settings
from hypothesis import strategies as st

from spire.domain.errors import Reason, Untrusted
from spire.domain.spiffe_id import TrustDomain
from spire.domain.svid import MAX_CERTIFICATE, MAX_CHAIN, verify_svid
from spire.identity import Svid
from tests.spire.pki import HOUR, Ca, Key, bundles_of, usage

A, B = Ca.of("a.test"), Ca.of("b.test")
BUNDLES = bundles_of(A, B)
GOOD = A.svid("/relay/edge-1")


def refusal(svid: Svid, *, now: datetime | None = None) -> Untrusted:
    with pytest.raises(Untrusted) as caught:
        verify_svid(svid.chain, bundles=BUNDLES, now=now or datetime.now(UTC))
    return caught.value


@pytest.mark.parametrize("authority", [A, B], ids=["own", "federated"])
def test_an_svid_of_a_known_trust_domain_is_believed(authority: Ca) -> None:
    svid = authority.svid("/relay/edge-1")
    assert verify_svid(svid.chain, bundles=BUNDLES, now=datetime.now(UTC)) == svid.spiffe_id


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["P-384", "RSA", "Ed25519"],
)
def test_keys_of_other_kinds_are_believed(key: Key) -> None:
    svid = A.svid(key=key)
    assert verify_svid(svid.chain, bundles=BUNDLES, now=datetime.now(UTC)) == svid.spiffe_id


def test_a_root_of_one_domain_cannot_sign_an_id_of_another() -> None:
    forged = B.svid("/manager/rear-gateway", trust_domain=A.trust_domain)
    pooled = Store([x509.load_der_x509_certificate(root) for roots in BUNDLES.values() for root in roots])
    leaf = x509.load_der_x509_certificate(forged.chain[0])
    PolicyBuilder().store(pooled).build_client_verifier().verify(leaf, [])
    assert refusal(forged).reason == Reason.CHAIN_BROKEN


def test_intermediates_of_the_same_domain_are_followed() -> None:
    svid = A.intermediate().intermediate().svid()
    assert len(svid.chain) == 3
    assert verify_svid(svid.chain, bundles=BUNDLES, now=datetime.now(UTC)) == svid.spiffe_id


def test_an_intermediate_that_is_left_out_or_foreign_breaks_the_chain() -> None:
    svid, foreign = A.intermediate().svid(), B.intermediate()
    assert refusal(replace(svid, chain=svid.chain[:1])).reason == Reason.CHAIN_BROKEN
    assert refusal(replace(svid, chain=(svid.chain[0], foreign.root))).reason == Reason.CHAIN_BROKEN
    assert refusal(foreign.svid(trust_domain=A.trust_domain)).reason == Reason.CHAIN_BROKEN


def test_a_leaf_cannot_certify() -> None:
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    leaf = A.svid(key=leaf_key)
    below = Ca(A.trust_domain, key=leaf_key, parent=A)
    below.name = x509.Name([])
    forged = below.svid("/issuer")
    assert refusal(replace(forged, chain=(forged.chain[0], *leaf.chain))).reason == Reason.CHAIN_BROKEN


def test_both_roots_of_a_rotation_are_believed_and_a_dropped_one_is_not() -> None:
    new = Ca(A.trust_domain)
    now = datetime.now(UTC)
    for each in (A, new):
        svid = each.svid()
        assert verify_svid(svid.chain, bundles=bundles_of(A, new), now=now) == svid.spiffe_id
    with pytest.raises(Untrusted):
        verify_svid(GOOD.chain, bundles=bundles_of(new), now=now)


def test_validity_ends_and_begins() -> None:
    now = datetime.now(UTC)
    expired = A.svid(not_before=now - 2 * HOUR, not_after=now - timedelta(seconds=2))
    assert refusal(expired).reason == Reason.NOT_VALID_NOW
    assert refusal(A.svid(not_before=now + timedelta(seconds=30))).reason == Reason.NOT_VALID_NOW
    assert refusal(GOOD, now=now + 48 * HOUR).reason == Reason.NOT_VALID_NOW


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["spiffe://a.test/relay/edge-1", "spiffe://a.test/issuer"],
        ["https://a.test/relay/edge-1"],
        ["spiffe://a.test"],
        ["spiffe://a.test/"],
        ["spiffe://A.test/relay/edge-1"],
        ["spiffe://a.test/relay/../issuer"],
        ["spiffe://a.test/relay%2Fedge-1"],
        ["spiffe://user@a.test/relay/edge-1"],
    ],
)
def test_exactly_one_uri_which_is_a_spiffe_id_with_a_path(uris: list[str]) -> None:
    assert refusal(A.svid(uris=uris, names=["relay.a.test"])).reason == Reason.NOT_AN_SVID
    assert refusal(A.svid(uris=uris)).reason == Reason.NOT_AN_SVID


@pytest.mark.parametrize(
    "wrong",
    [
        A.svid(ca=True),
        A.svid(key_usage=usage(certifies=True)),
        A.svid(key_usage=usage(signs=False)),
        A.svid(key_usage=None),
    ],
    ids=["CA:TRUE", "certifies", "does not sign", "no key usage"],
)
def test_a_leaf_with_other_rights_than_to_sign_handshakes_is_refused(wrong: Svid) -> None:
    assert refusal(wrong).reason == Reason.NOT_AN_SVID


def test_extended_usage_may_be_left_out_but_not_exclude_tls() -> None:
    svid = A.svid(extended=())
    assert verify_svid(svid.chain, bundles=BUNDLES, now=datetime.now(UTC)) == svid.spiffe_id
    assert refusal(A.svid(extended=[ExtendedKeyUsageOID.CODE_SIGNING])).reason == Reason.CHAIN_BROKEN


def test_a_domain_that_nobody_knows_is_told_apart() -> None:
    assert refusal(Ca.of("c.test").svid()).reason == Reason.TRUST_DOMAIN_UNKNOWN
    with pytest.raises(Untrusted, match=r"no root of a\.test"):
        verify_svid(GOOD.chain, bundles={TrustDomain("a.test"): ()}, now=datetime.now(UTC))


@pytest.mark.parametrize(
    "chain",
    [(), (b"",), (b"\x30\x03\x02\x01\x00",), GOOD.chain * (MAX_CHAIN + 1), (GOOD.chain[0] + bytes(MAX_CERTIFICATE),)],
)
def test_what_is_no_chain_is_refused(chain: tuple[bytes, ...]) -> None:
    assert refusal(replace(GOOD, chain=chain)).reason == Reason.NOT_AN_SVID


@pytest.mark.filterwarnings("ignore:Parsed a serial number:cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_no_changed_byte_is_believed(flip: int) -> None:
    for position in range(len(GOOD.chain[0])):
        leaf = bytearray(GOOD.chain[0])
        leaf[position] ^= flip
        refusal(replace(GOOD, chain=(bytes(leaf),)))


@settings(max_examples=100, deadline=None)
@given(data=st.lists(st.binary(max_size=200), max_size=10))
def test_garbage_is_refused_and_nothing_else_happens(data: list[bytes]) -> None:
    refusal(replace(GOOD, chain=tuple(data)))


def test_a_parsed_svid_says_what_its_leaf_says() -> None:
    assert Svid.parse(GOOD.chain, key=GOOD.key) == GOOD
    assert "key=" not in repr(GOOD)
