"""What certificates may say, in both forms, and how they are refused."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from spire.domain import cbor, cose, dice_cbor, dice_x509, tcg
from spire.domain.certificates import MAX_CERTIFICATE, OpenDiceInput
from spire.domain.chain import parse_certificate
from spire.domain.dice import Inputs, Mode
from spire.domain.errors import Malformed, Untrusted
from spire.domain.ueid import Ueid
from tests.spire.support import GOOD, device, digest, firmware_inputs, seeded

AUTHORITY, SUBJECT = seeded("authority"), seeded("subject")


def with_extension(
    oid: x509.ObjectIdentifier,
    value: bytes,
    *,
    critical: bool = True,
    more: tuple[x509.UnrecognizedExtension, ...] = (),
) -> bytes:
    builder = dice_x509._device_certificate(AUTHORITY.public_key(), SUBJECT.public_key(), certifies=True)
    builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=critical)
    for extension in more:
        builder = builder.add_extension(extension, critical=False)
    return dice_x509._sign(builder, AUTHORITY)


def test_mode_is_read_as_enumerated_and_as_integer() -> None:
    written = dice_x509.open_dice_extension(OpenDiceInput.of(Inputs(mode=Mode.RECOVERY)))
    assert b"\xa6\x03\x0a\x01\x03" in written
    as_integer = written.replace(b"\xa6\x03\x0a\x01\x03", b"\xa6\x03\x02\x01\x03")
    for extension in (written, as_integer):
        layer = parse_certificate(with_extension(dice_x509.OPEN_DICE, extension)).layer
        assert layer is not None
        assert layer.mode is Mode.RECOVERY


@pytest.mark.parametrize("mode", [b"\xa6\x03\x04\x01\x01", b"\xa6\x04\x0a\x02\x01\x01", b"\xa6\x02\x0a\x00", b""])
def test_a_mode_of_another_type_or_none_is_refused(mode: bytes) -> None:
    fields = b"\xa0\x42\x04\x40" + bytes(64) + mode
    with pytest.raises(Malformed):
        parse_certificate(with_extension(dice_x509.OPEN_DICE, b"\x30" + bytes([len(fields)]) + fields))


def test_a_descriptor_must_have_the_hash_that_is_certified() -> None:
    said = OpenDiceInput.of(firmware_inputs())
    assert said.configuration_hash is not None
    OpenDiceInput(code_hash=GOOD, mode=Mode.NORMAL, configuration_descriptor=b"x", configuration_hash=digest("x"))
    with pytest.raises(Malformed, match="configurationHash"):
        OpenDiceInput(code_hash=GOOD, mode=Mode.NORMAL, configuration_descriptor=b"y", configuration_hash=digest("x"))


def test_a_hash_of_no_hash_function_is_refused() -> None:
    with pytest.raises(Malformed, match="codeHash"):
        OpenDiceInput(code_hash=b"short", mode=Mode.NORMAL)


def tcb_info(
    *,
    fwids: int = 1,
    flags: bytes | None = None,
    svn: int | None = None,
    model: str | None = None,
    version: str | None = None,
) -> bytes:
    one = tcg._Fwid(algorithm=x509.ObjectIdentifier("2.16.840.1.101.3.4.2.1"), digest=bytes(32))
    said = tcg._TcbInfo(
        vendor="acme",
        model=model,
        version=version,
        svn=svn,
        layer=None,
        index=None,
        fwids=[one] * fwids,
        flags=None if flags is None else asn1.BitString(flags, 4),
        vendor_info=None,
        type=None,
    )
    return asn1.encode_der(said)


def test_tcb_info_describes_a_layer() -> None:
    data = tcb_info(model="thermo", version="1.2", svn=7, flags=b"\x00")
    layer = parse_certificate(with_extension(tcg.TCB_INFO, data, critical=False)).layer
    assert layer is not None
    assert (layer.measurement, layer.mode) == (bytes(32), Mode.NORMAL)
    assert (layer.component.name, layer.component.version, layer.component.security_counter) == ("thermo", "1.2", 7)


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        (None, Mode.NOT_CONFIGURED),
        (b"\x80", Mode.NOT_CONFIGURED),
        (b"\x40", Mode.DEBUG),
        (b"\x20", Mode.RECOVERY),
        (b"\x10", Mode.DEBUG),
        (b"\x30", Mode.DEBUG),
        (b"\x00", Mode.NORMAL),
    ],
)
def test_flags_of_tcb_info_count_as_the_worst_that_they_say(flags: bytes | None, mode: Mode) -> None:
    assert tcg.layer_of_tcb_info(tcb_info(flags=flags)).mode is mode


def test_several_measurements_in_one_tcb_info_cannot_be_compared() -> None:
    with pytest.raises(Malformed, match="one measurement"):
        tcg.layer_of_tcb_info(tcb_info(fwids=2))


def test_tcb_info_is_read_as_the_tcgs_asn1_spells_it() -> None:
    # vendor "ACME", model "1", svn 7 and one SHA-256 digest, put together by hand: all tags are implicit.
    fwid = "302f302d06096086480165030402010420" + "ab" * 32
    data = bytes.fromhex("303d800441434d45820131830107" + "a6" + fwid[2:])
    layer = tcg.layer_of_tcb_info(data)
    assert (layer.measurement, layer.component.security_counter) == (b"\xab" * 32, 7)


def test_a_certificate_describes_one_layer() -> None:
    open_dice = dice_x509.open_dice_extension(OpenDiceInput.of(Inputs()))
    with pytest.raises(Malformed, match="one layer"):
        parse_certificate(
            with_extension(dice_x509.OPEN_DICE, open_dice, more=(x509.UnrecognizedExtension(tcg.TCB_INFO, tcb_info()),))
        )


@pytest.mark.parametrize(
    ("oid", "critical"),
    [("1.2.3.4", True), ("2.23.133.5.4.5", False), ("2.23.133.5.4.8", False), ("2.5.29.30", True)],
)
def test_extensions_that_could_describe_or_restrict_and_are_not_known_are_refused(oid: str, critical: bool) -> None:
    value = bytes.fromhex("300fa00d300b820961636d652e74657374")  # name constraints; the others do not look
    with pytest.raises(Malformed, match="an extension that is known here"):
        parse_certificate(with_extension(x509.ObjectIdentifier(oid), value, critical=critical))


def test_an_uncritical_extension_of_others_is_ignored() -> None:
    assert (
        parse_certificate(with_extension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00", critical=False)).layer is None
    )


def test_certificates_for_keys_of_other_kinds_are_refused() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rsa")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(1)
        .public_key(key.public_key())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2050, 1, 1, tzinfo=UTC))
        .add_extension(dice_x509.usage(certifies=True, attests=False), critical=True)
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(Malformed, match="P-256, P-384 or Ed25519"):
        parse_certificate(certificate.public_bytes(Encoding.DER))


@pytest.mark.parametrize(
    "claims",
    [
        {-4670553: b"\x04"},  # a key usage of another kind
        {-4670553: b"\x21"},  # to certify and to attest
        {1: ""},
        {1: 5},
        {4: -1},
        {4: 2**60},
        {-4670551: b"\x01"},  # a mode without a measurement
        {-4670560: b"what"},
        {-4670552: b"\xa0"},
        {256: b"\x09bad"},
    ],
)
def test_cbor_certificates_with_odd_claims_are_refused(claims: dict[int, object]) -> None:
    said: dict[int, object] = {
        1: "issuer",
        2: "subject",
        -4670552: cbor.encode(cose.encode_key(SUBJECT.public_key())),
        -4670553: b"\x20",
    }
    parse_certificate(cose.sign1(AUTHORITY, cbor.encode(said)))
    with pytest.raises(Malformed):
        parse_certificate(cose.sign1(AUTHORITY, cbor.encode({**said, **claims})))


def test_times_of_a_cbor_certificate_bound_it() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    said: dict[int, object] = {
        1: "issuer",
        2: "subject",
        4: int((start + timedelta(days=10)).timestamp()),
        5: int(start.timestamp()),
        -4670552: cbor.encode(cose.encode_key(SUBJECT.public_key())),
        -4670553: b"\x20",
    }
    certificate = parse_certificate(cose.sign1(AUTHORITY, cbor.encode(said)))
    certificate.verify(issuer_key=AUTHORITY.public_key(), now=start + timedelta(days=1), what="it")
    for moment in (start - timedelta(seconds=1), start + timedelta(days=11)):
        with pytest.raises(Untrusted, match="not now"):
            certificate.verify(issuer_key=AUTHORITY.public_key(), now=moment, what="it")


def test_a_certificate_that_is_too_long_is_not_read() -> None:
    for start in (b"\x30", b"\x84"):
        with pytest.raises(Malformed, match="at most"):
            parse_certificate(start + bytes(MAX_CERTIFICATE))


SAMPLES = [*device().chain, *device(form=dice_cbor).chain]


@pytest.mark.filterwarnings("ignore:Parsed a serial number:Warning")  # some changes make it negative
@given(st.sampled_from(SAMPLES), st.data())
@settings(max_examples=300)
def test_mangled_certificates_are_read_or_malformed_and_nothing_else(sample: bytes, data: st.DataObject) -> None:
    mangled = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 4))):
        mangled[data.draw(st.integers(0, len(mangled) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(mangled)))
    for candidate in (bytes(mangled), bytes(mangled[:cut]), bytes(mangled) + b"\x00"):
        with suppress(Malformed):
            parse_certificate(candidate)


@given(st.binary(max_size=64), st.sampled_from([b"", b"\x30", b"\x84"]))
@settings(max_examples=300)
def test_any_bytes_are_a_certificate_or_malformed(data: bytes, start: bytes) -> None:
    with suppress(Malformed):
        parse_certificate(start + data)


@pytest.mark.parametrize("value", [b"", b"\x01", b"\x01" + bytes(15), b"\x02" + bytes(7), b"\x04" + bytes(16)])
def test_a_ueid_has_a_type_and_its_length(value: bytes) -> None:
    with pytest.raises(Malformed, match="ueid"):
        Ueid(value)
