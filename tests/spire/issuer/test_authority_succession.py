"""The certificate authority over time, and what it signs."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.errors import InvalidField
from spire.domain.authority import (
    Succession,
    SvidKey,
    advance,
    dump,
    key_of_csr,
    load,
    sign_svid,
    workload_common_name,
)
from spire.domain.errors import Malformed, Reason, Untrusted
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.domain.svid import verify_svid

HERE = TrustDomain("a.example")
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LIFE = timedelta(days=6)
EMPTY = Succession(trust_domain=HERE)


def _at(succession: Succession, now: datetime, *, lifetime: timedelta = LIFE) -> Succession:
    return advance(
        succession,
        now=now,
        lifetime=lifetime,
        new_key=lambda: ec.generate_private_key(ec.SECP256R1()),
        serial=x509.random_serial_number,
    )


def _svid(
    succession: Succession, now: datetime, *, ttl: timedelta = timedelta(hours=1), key: SvidKey | None = None
) -> x509.Certificate:
    return sign_svid(
        succession.signer(now),
        spiffe_id=HERE.spiffe_id("relay", "edge-1"),
        key=key or ec.generate_private_key(ec.SECP256R1()).public_key(),
        common_name="relay.edge-1",
        now=now,
        ttl=ttl,
        serial=x509.random_serial_number(),
    )


def _csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody else")])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, algorithm).public_bytes(Encoding.DER)


def test_the_first_authority_signs_at_once() -> None:
    begun = _at(EMPTY, NOW)
    assert begun.sequence == 1
    assert begun.signer(NOW).ends == NOW + LIFE
    assert _at(begun, NOW + LIFE / 3) is begun


def test_a_successor_is_prepared_at_half_of_the_life_and_signs_at_five_sixths() -> None:
    begun = _at(EMPTY, NOW)
    assert begun.next_step() == NOW + LIFE / 2

    prepared = _at(begun, NOW + LIFE / 2)
    assert prepared.sequence == 2
    assert prepared.roots[:1] == begun.roots
    assert len(prepared.roots) == 2
    assert prepared.signer(NOW + LIFE * 0.8).der == begun.roots[0]
    assert prepared.next_step() == NOW + LIFE * 5 / 6

    active = _at(prepared, NOW + LIFE * 5 / 6)
    assert active.sequence == 2  # the bundle is the same
    assert active.members[0].key is None
    assert active.signer(NOW + LIFE * 5 / 6).der == prepared.roots[1]

    over = _at(active, NOW + LIFE)
    assert over.roots == prepared.roots[1:2] + over.roots[1:]
    assert begun.roots[0] not in over.roots


def test_an_issuer_that_was_away_for_long_prepares_late_and_still_in_time() -> None:
    begun = _at(EMPTY, NOW)
    late = NOW + LIFE * 0.9
    prepared = _at(begun, late)
    assert prepared.signer(late).der == begun.roots[0]
    assert late < prepared.members[1].active_from < NOW + LIFE


def test_an_issuer_that_was_away_past_the_end_begins_anew_and_counts_on() -> None:
    begun = _at(EMPTY, NOW)
    anew = _at(begun, NOW + LIFE * 2)
    assert anew.sequence == begun.sequence + 1
    assert anew.signer(NOW + LIFE * 2).der not in begun.roots


def test_a_shorter_life_in_the_settings_does_not_leave_a_gap() -> None:
    now, succession = NOW, _at(EMPTY, NOW)
    for _ in range(60):
        now = succession.next_step()
        succession = _at(succession, now, lifetime=timedelta(hours=2))
        assert succession.signer(now).ends > now
        assert len(succession.members) <= 4


@given(steps=st.lists(st.floats(0.001, 2.5), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_whoever_was_trusted_stays_trusted_until_the_end_of_what_it_signed(steps: list[float]) -> None:
    now, succession = NOW, _at(EMPTY, NOW)
    issued: list[x509.Certificate] = []
    for step in steps:
        now += LIFE * step
        before, succession = succession, _at(succession, now)
        assert succession.sequence >= before.sequence
        assert (succession.sequence == before.sequence) == (succession.roots == before.roots)
        assert 1 <= len(succession.members) <= 3
        assert now < succession.next_step()
        issued.append(_svid(succession, now, ttl=LIFE / 6))
        for each in issued:
            if each.not_valid_after_utc > now:
                chain = [each.public_bytes(Encoding.DER)]
                assert verify_svid(chain, bundles={HERE: succession.roots}, now=now)


def test_no_svid_outlives_its_authority() -> None:
    begun = _at(EMPTY, NOW)
    late = NOW + LIFE - timedelta(minutes=5)
    assert _svid(begun, late).not_valid_after_utc == NOW + LIFE
    with pytest.raises(InvalidField, match="ttl"):
        _svid(begun, NOW + LIFE)


def test_an_svid_has_the_form_that_spire_gives_it() -> None:
    begun = _at(EMPTY, NOW)
    leaf = _svid(begun, NOW)
    root = begun.members[0].certificate
    assert leaf.not_valid_before_utc == NOW - timedelta(seconds=10)
    assert leaf.not_valid_after_utc == NOW + timedelta(hours=1)
    assert leaf.subject.rfc4514_string() == "CN=relay.edge-1"
    assert leaf.issuer == root.subject
    said = {each.oid.dotted_string: each for each in leaf.extensions}
    assert len(said) == 6
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [each.value for each in names] == ["spiffe://a.example/relay/edge-1"]
    own = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [each.value for each in own] == ["spiffe://a.example"]
    leaf.verify_directly_issued_by(root)


def test_what_was_saved_is_what_is_loaded() -> None:
    later = _at(_at(_at(EMPTY, NOW), NOW + LIFE / 2), NOW + LIFE * 0.9)
    again = load(dump(later), trust_domain=HERE)
    assert again.roots == later.roots
    assert again.sequence == later.sequence
    assert [each.active_from for each in again.members] == [each.active_from for each in later.members]
    assert [each.key is None for each in again.members] == [True, False]
    assert _at(again, NOW + LIFE * 0.9) is again


@given(data=st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_a_store_with_something_else_in_it_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidField, match="authority"):
        load(data, trust_domain=HERE)


@pytest.mark.parametrize("cut", range(1, 900, 97))
def test_a_store_that_was_cut_off_is_refused(cut: int) -> None:
    with pytest.raises(InvalidField, match="authority"):
        load(dump(_at(EMPTY, NOW))[:cut], trust_domain=HERE)


def test_a_store_of_another_trust_domain_is_refused() -> None:
    with pytest.raises(InvalidField, match=r"authority\.trustDomain: 'a\.example'.*expected b\.example"):
        load(dump(_at(EMPTY, NOW)), trust_domain=TrustDomain("b.example"))


def test_a_store_with_the_key_of_another_certificate_is_refused() -> None:
    mine, others = dump(_at(EMPTY, NOW)), dump(_at(EMPTY, NOW))
    key = others[others.index(b'"key":') : others.index(b'"activeFrom"')]
    own = mine[mine.index(b'"key":') : mine.index(b'"activeFrom"')]
    with pytest.raises(InvalidField, match="authority"):
        load(mine.replace(own, key), trust_domain=HERE)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "Ed25519", "RSA"],
)
def test_keys_that_get_svids(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey,
) -> None:
    begun = _at(EMPTY, NOW)
    chain = [_svid(begun, NOW, key=key_of_csr(_csr(key))).public_bytes(Encoding.DER)]
    assert str(verify_svid(chain, bundles={HERE: begun.roots}, now=NOW)) == "spiffe://a.example/relay/edge-1"


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(65537, 1024),  # noqa: S505 - too short is what it is here for
        dsa.generate_private_key(2048),
    ],
    ids=["secp256k1", "P-521", "RSA-1024", "DSA"],
)
def test_keys_that_get_none(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | dsa.DSAPrivateKey) -> None:
    with pytest.raises(Malformed, match="csr"):
        key_of_csr(_csr(key))


def test_no_change_of_a_byte_makes_a_request_one_for_another_key() -> None:
    asker = ec.generate_private_key(ec.SECP256R1())
    csr = _csr(asker)
    for position in range(len(csr)):
        changed = csr[:position] + bytes([csr[position] ^ 0x01]) + csr[position + 1 :]
        # The signature does not cover how many bits of its last byte are used.
        with contextlib.suppress(Malformed, Untrusted):
            assert key_of_csr(changed) == asker.public_key()
            assert position > len(csr) - 80
    with pytest.raises(Malformed):
        key_of_csr(csr + b"\x00")
    with pytest.raises(Malformed, match="at most 8192"):
        key_of_csr(csr + bytes(8192))


def test_a_request_for_the_key_of_somebody_else_is_refused() -> None:
    victim = ec.generate_private_key(ec.SECP256R1()).public_key()
    attacker = ec.generate_private_key(ec.SECP256R1())
    point = (Encoding.X962, PublicFormat.UncompressedPoint)
    own, theirs = attacker.public_key().public_bytes(*point), victim.public_bytes(*point)
    with pytest.raises(Untrusted) as refused:
        key_of_csr(_csr(attacker).replace(own, theirs))
    assert refused.value.reason == Reason.BAD_SIGNATURE


def test_common_names_are_short_and_no_two_are_alike() -> None:
    assert workload_common_name(HERE.spiffe_id("relay", "edge-1")) == "relay.edge-1"
    first, second = (
        workload_common_name(SpiffeId(HERE, f"/endpoint/{'n' * 63}/{'a' * 200}{number}")) for number in range(2)
    )
    assert first != second
    assert len(first) <= 64
