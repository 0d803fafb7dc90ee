"""Bundle documents, ours and those of others."""

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from spire.domain.bundle import Bundle, newer, parse, parse_pem, to_json, to_pem
from spire.domain.errors import Malformed, Reason, Untrusted
from spire.domain.spiffe_id import TrustDomain

HERE = TrustDomain("a.example")
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def _root(*uris: str, key: Key | None = None, ca: bool = True) -> bytes:
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=not ca)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


OURS = _root("spiffe://a.example")
BUNDLE = Bundle(trust_domain=HERE, roots=(OURS,), sequence=7, refresh_hint=timedelta(minutes=5))


def _document(**members: Any) -> bytes:
    return orjson.dumps(orjson.loads(to_json(BUNDLE)) | members)


def _key(**members: Any) -> dict[str, Any]:
    key: dict[str, Any] = orjson.loads(to_json(BUNDLE))["keys"][0] | members
    return {name: value for name, value in key.items() if value is not None}


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-521", "Ed25519", "RSA"],
)
def test_what_is_published_is_what_is_read(key: Key) -> None:
    bundle = Bundle(trust_domain=HERE, roots=(OURS, _root(key=key)), sequence=1, refresh_hint=timedelta(seconds=10))
    assert parse(to_json(bundle), trust_domain=HERE) == bundle
    assert parse_pem(to_pem(bundle.roots).encode(), trust_domain=HERE).roots == bundle.roots


def test_what_the_specification_lets_others_add_is_ignored() -> None:
    jwt = {"use": "jwt-svid", "kty": "EC", "kid": "x"}
    document = _document(keys=[jwt, {"kty": "EC"}, {"use": "future"}, _key(kid="y")], also="this")
    assert parse(document, trust_domain=HERE) == BUNDLE


def test_sequence_and_hint_may_be_missing() -> None:
    assert parse(orjson.dumps({"keys": [_key()]}), trust_domain=HERE) == Bundle(trust_domain=HERE, roots=(OURS,))


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (b"", "JSON"),
        (b"<html>", "JSON"),
        (b"[]", "an object"),
        (b"{}", r"bundle\.keys"),
        (b'{"keys": {}}', r"bundle\.keys"),
        (b'{"keys": []}', "0 X.509 roots"),
        (b'{"keys": [3]}', r"bundle\.keys\[0\]"),
        (_document(keys=[{"use": "jwt-svid", "kty": "EC"}]), "0 X.509 roots"),
        (_document(spiffe_sequence=-1), "spiffe_sequence"),
        (_document(spiffe_sequence="7"), "spiffe_sequence"),
        (_document(spiffe_sequence=7.0), "spiffe_sequence"),
        (_document(spiffe_sequence=True), "spiffe_sequence"),
        (_document(spiffe_refresh_hint=10**9), "spiffe_refresh_hint"),
        (_document(keys=[_key(x5c=None)]), "x5c"),
        (_document(keys=[_key(x5c=[])]), "x5c"),
        (_document(keys=[_key(x5c=["!"])]), "x5c"),
        (_document(keys=[_key(x5c=[b64encode(OURS).decode()] * 2)]), "x5c"),
        (_document(keys=[_key(x5c=[b64encode(OURS[:-1]).decode()])]), "x5c"),
        (_document(keys=[_key(x=None)]), r"keys\[0\]\.x"),
        (_document(keys=[_key(crv="P-384")]), r"keys\[0\]\.crv"),
        (_document(keys=[_key(kty="RSA")]), r"keys\[0\]\.kty"),
        (_document(keys=[{"use": "jwt-svid"}] * 300), "at most 256"),
        (b'{"keys": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "bundle"),
        (b'{"keys": []' + b" " * (1 << 20) + b"}", "at most 1048576 bytes"),
    ],
)
def test_a_document_that_is_none_is_refused(document: bytes, told: str) -> None:
    with pytest.raises(Malformed, match=told):
        parse(document, trust_domain=HERE)


@pytest.mark.parametrize(
    "root",
    [
        _root("spiffe://b.example"),
        _root("spiffe://a.example", "spiffe://b.example"),
        _root("spiffe://a.example/ca"),
        _root("spiffe://a.example", ca=False),
    ],
    ids=["another domain", "two domains", "a workload", "not a CA"],
)
def test_a_root_that_is_none_of_this_domain_is_refused(root: bytes) -> None:
    with pytest.raises(Malformed, match=r"bundle\.keys\[0\]"):
        parse_pem(to_pem([root]).encode(), trust_domain=HERE)


def test_more_roots_than_anybody_needs_are_refused() -> None:
    with pytest.raises(Malformed, match=r"17 X\.509 roots"):
        Bundle(trust_domain=HERE, roots=(OURS,) * 17)


def test_an_older_bundle_does_not_replace_a_newer_one() -> None:
    older, same, uncounted = (
        Bundle(trust_domain=HERE, roots=(_root(),), sequence=sequence) for sequence in (6, 7, None)
    )
    for offered in (older, uncounted):
        with pytest.raises(Untrusted) as refused:
            newer(offered, known=BUNDLE)
        assert refused.value.reason == Reason.BUNDLE_OLDER
    assert newer(same, known=BUNDLE) is same
    assert newer(older, known=uncounted) is older


@given(
    data=st.binary(max_size=300)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["keys", "use", "x5c", "kty", "spiffe_sequence"]), x),
    ).map(lambda value: str(value).replace("'", '"').encode())
)
@settings(max_examples=200, deadline=None)
def test_garbage_is_refused_and_never_crashes(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse(data, trust_domain=HERE)


@given(position=st.integers(0, len(to_json(BUNDLE)) - 1), value=st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_changes_no_root(position: int, value: int) -> None:
    document = bytearray(to_json(BUNDLE))
    document[position] = value
    try:
        read = parse(bytes(document), trust_domain=HERE)
    except Malformed:
        return
    # The certificate's own signature is not what a root is believed for: its key and name are.
    assert [x509.load_der_x509_certificate(each).public_key() for each in read.roots] == [
        x509.load_der_x509_certificate(OURS).public_key()
    ]
