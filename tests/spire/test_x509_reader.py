"""Our own reading of X.509, held against a library's: it may refuse more, and never understand anything else."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_targets import same_as_cryptography
from spire.domain import der, dice_x509, x509_reader
from spire.domain.chain import Manufacturer, verify_chain
from spire.domain.errors import Malformed
from spire.domain.keys import Curve
from spire.domain.ueid import Ueid
from tests.spire.support import ACME, NOW, device, seeded

AUTHORITY, SUBJECT = seeded("authority"), seeded("subject")
ROOT = ACME.certificate.public_bytes(Encoding.DER)
SAMPLES = [
    *(certificate for curve in Curve for certificate in device(curve=curve).chain),
    device(ueid=Ueid(b"\x01" + bytes(16))).chain[-1],
    ROOT,
]


def builder(*, issuer: x509.Name | None = None) -> x509.CertificateBuilder:
    name = issuer or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "maker")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(1)
        .public_key(SUBJECT.public_key())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2060, 1, 1, tzinfo=UTC))
    )


def signed(unsigned: x509.CertificateBuilder) -> bytes:
    usage, ca = dice_x509.usage(certifies=True, attests=False), x509.BasicConstraints(ca=True, path_length=3)
    return dice_x509._sign(unsigned.add_extension(usage, critical=True).add_extension(ca, critical=True), AUTHORITY)


@pytest.mark.parametrize("sample", SAMPLES)
def test_what_is_read_is_what_a_library_reads(sample: bytes) -> None:
    same_as_cryptography(sample, x509_reader.parse(sample))


@pytest.mark.filterwarnings("ignore:Parsed a serial number:Warning")  # some changes make it negative
@given(st.sampled_from(SAMPLES), st.data())
@settings(max_examples=500)
def test_what_is_read_of_a_mangled_certificate_is_what_a_library_reads(sample: bytes, data: st.DataObject) -> None:
    mangled = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 2))):
        mangled[data.draw(st.integers(0, len(mangled) - 1))] = data.draw(st.integers(0, 255))
    with suppress(Malformed):
        same_as_cryptography(bytes(mangled), x509_reader.parse(bytes(mangled)))


@pytest.mark.parametrize("place", range(len(device().chain)))
def test_a_signature_is_whole_bytes(place: int) -> None:
    chain = list(device().chain)
    original = chain[place]
    signature = x509.load_der_x509_certificate(original).signature
    unused = len(original) - len(signature) - 1
    assert original[unused] == 0
    for bits in range(1, 256):
        chain[place] = original[:unused] + bytes([bits]) + original[unused + 1 :]
        with pytest.raises(Malformed):
            verify_chain(chain, manufacturers=[ACME.anchor()], now=NOW)


def test_the_algorithm_is_the_same_inside_and_outside() -> None:
    original = device().chain[0]
    outside = original.rindex(bytes.fromhex("2a8648ce3d040302"))
    other = original[: outside + 7] + b"\x03" + original[outside + 8 :]
    with pytest.raises(Malformed, match="the same twice"):
        x509_reader.parse(other)


def test_each_extension_stands_once() -> None:
    usage, empty = bytes.fromhex("300e0603551d0f0101ff040403020204"), bytes.fromhex("30050603551d13")
    x509_reader._extensions(der.tlv(0x30, usage))
    with pytest.raises(Malformed, match="each extension once"):
        x509_reader._extensions(der.tlv(0x30, usage + usage))
    with pytest.raises(Malformed, match="expected extensions"):
        x509_reader._extensions(der.tlv(0x30, usage + empty))


def test_a_key_that_is_named_by_issuer_and_number_is_read() -> None:
    name = [x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "maker")]))]
    by_all = x509.AuthorityKeyIdentifier(b"key", name, 5)
    read = x509_reader.parse(signed(builder().add_extension(by_all, critical=False)))
    assert (read.authority_key_id, read.path_length, read.may_certify) == (b"key", 3, True)
    by_name = x509.AuthorityKeyIdentifier(None, name, 5)
    assert x509_reader.parse(signed(builder().add_extension(by_name, critical=False))).authority_key_id is None


@pytest.mark.parametrize(
    "attributes",
    [
        [(NameOID.ORGANIZATION_NAME, "Acme, Inc."), (NameOID.COMMON_NAME, "Wurzel für Geräte")],
        [(NameOID.SERIAL_NUMBER, "17")],
        [(NameOID.SERIAL_NUMBER, "17"), (NameOID.COMMON_NAME, "x")],
        [],
    ],
)
def test_names_are_written_as_a_library_writes_them(attributes: list[tuple[x509.ObjectIdentifier, str]]) -> None:
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
    certificate = signed(builder(issuer=name))
    same_as_cryptography(certificate, x509_reader.parse(certificate))


def test_whoever_certified_a_manufacturer_may_have_a_key_of_any_kind() -> None:
    unsigned = builder().add_extension(dice_x509.usage(certifies=True, attests=False), critical=True)
    unsigned = unsigned.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    intermediate = unsigned.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    assert isinstance(Manufacturer.of_certificate("maker", intermediate).public_key, ec.EllipticCurvePublicKey)


@pytest.mark.parametrize(
    "data", ["30", "3001", "300201", "3080", "308100", "30810105", "3082000105", "30020500ff", "308401000000"]
)
def test_values_that_do_not_end_where_they_should_or_have_long_lengths_are_malformed(data: str) -> None:
    with pytest.raises(Malformed):
        der.split(bytes.fromhex(data), 0, len(data) // 2)


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=5))
@settings(max_examples=100)
def test_what_is_encoded_is_split_again(values: list[tuple[int, bytes]]) -> None:
    data = b"".join(der.tlv(tag, content) for tag, content in values)
    tags, spans = der.split(data, 0, len(data))
    assert [(tag, data[slice(*span)]) for tag, span in zip(tags, spans, strict=True)] == values
