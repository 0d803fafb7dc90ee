"""Certificates of the older dialect: verified, and never more than Legacy."""

from __future__ import annotations

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from spire.domain import dice, dice_x509, nubificus
from spire.domain.certificates import OpenDiceInput
from spire.domain.dice import Inputs, Mode, Secrets
from spire.domain.errors import Malformed, Reason, Untrusted
from spire.domain.keys import Curve
from spire.domain.verdict import Legacy
from tests.spire.support import NOW, POLICY, device

MAC = "f0:f5:bd:00:c2:88"


def certify(
    authority: ec.EllipticCurvePrivateKey, subject: ec.EllipticCurvePrivateKey, inputs: Inputs
) -> x509.Certificate:
    """As the older port writes it: names from compressed points, signed with SHA-512."""
    issuer, named = (
        dice.identifier(key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint))
        for key in (authority, subject)
    )
    said = dice_x509.open_dice_extension(OpenDiceInput.of(inputs, profile_name="openssl.example.p256"))
    return (
        x509.CertificateBuilder()
        .serial_number(int.from_bytes(named, "big"))
        .issuer_name(dice_x509._name(issuer))
        .subject_name(dice_x509._name(named))
        .public_key(subject.public_key())
        .not_valid_before(dice_x509.EPOCH)
        .not_valid_after(dice_x509.FOREVER)
        .add_extension(x509.AuthorityKeyIdentifier(issuer, None, None), critical=False)
        .add_extension(x509.SubjectKeyIdentifier(named), critical=False)
        .add_extension(dice_x509.usage(certifies=True, attests=False), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.UnrecognizedExtension(dice_x509.OPEN_DICE, said), critical=True)
        .sign(authority, hashes.SHA512(), ecdsa_deterministic=True)
    )


def legacy(mac: str = MAC, code: bytes = bytes(64)) -> tuple[x509.Certificate, x509.Certificate]:
    """Root and attestation certificate of whoever knows a MAC address."""
    uds = dice.kdf(32, bytes.fromhex(mac.replace(":", "")), salt=dice._ASYM_SALT, info=b"UDS hkdf")
    hardware = Secrets.of_hardware(uds)
    inputs = Inputs(code_hash=code, mode=Mode.NORMAL)
    root, key = hardware.key(Curve.P256), hardware.next(inputs).key(Curve.P256)
    assert isinstance(root, ec.EllipticCurvePrivateKey)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return certify(root, root, Inputs()), certify(root, key, inputs)


ROOT, SHOWN = legacy()
ROOTS = {
    "00:00:00:00:00:01": legacy("00:00:00:00:00:01")[0].public_bytes(Encoding.PEM),
    MAC: ROOT.public_bytes(Encoding.PEM),
}


@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
def test_a_certificate_is_traced_to_its_mac(encoding: Encoding) -> None:
    code = hashlib.sha512(b"code").digest()
    shown = legacy(code=code)[1].public_bytes(encoding)
    assert nubificus.verify(shown, roots=ROOTS, now=NOW) == Legacy(mac=MAC, measurement=code)


def test_what_anybody_can_make_is_refused_by_policies_for_evidence() -> None:
    refused = POLICY.judge(nubificus.verify(SHOWN.public_bytes(Encoding.DER), roots=ROOTS, now=NOW))
    assert refused is not None
    assert refused.reason == Reason.LEGACY_REFUSED


def test_an_unknown_root_is_refused() -> None:
    other = legacy("00:00:00:00:00:02")[1].public_bytes(Encoding.DER)
    with pytest.raises(Untrusted) as caught:
        nubificus.verify(other, roots=ROOTS, now=NOW)
    assert caught.value.reason == Reason.UNKNOWN_MANUFACTURER


@pytest.mark.filterwarnings("ignore:Parsed a serial number:Warning")  # one of the changes makes it negative
def test_no_byte_of_the_certificate_can_be_changed() -> None:
    good = SHOWN.public_bytes(Encoding.DER)
    for position in range(len(good)):
        changed = bytearray(good)
        changed[position] ^= 1 << (position % 8)
        with pytest.raises((Malformed, Untrusted)):
            nubificus.verify(bytes(changed), roots=ROOTS, now=NOW)


@pytest.mark.parametrize("data", [b"", b"-----BEGIN CERTIFICATE-----", b"-----BEGIN CERTIFICATE-----" + b"A" * 100_000])
def test_garbage_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        nubificus.verify(data, roots=ROOTS, now=NOW)


def test_a_certificate_that_measures_nothing_is_refused() -> None:
    with pytest.raises(Untrusted, match="no layer"):
        nubificus.verify(device().chain[0], roots=ROOTS, now=NOW)
