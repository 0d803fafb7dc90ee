"""From a manufacturer's root to the key that signs evidence: the path check of DICE chains.

Every certificate has its place: the first below the root names the hardware, each one after it describes the layer that
holds its key, and the last is for the attestation key. A certificate in the place of a layer that describes none breaks
the chain, so that no layer can be left out of what policies judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import pairwise

from spire.domain import dice_cbor, dice_x509
from spire.domain.certificates import Certificate, Layer
from spire.domain.errors import Malformed, Reason, Untrusted
from spire.domain.keys import PublicKey
from spire.domain.ueid import Ueid

MAX_CHAIN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Manufacturer:
    """Who certifies the keys of hardware: a trust anchor in RFC 5280's sense, so only its name and key count.

    A factory's intermediate certificate is an anchor of its own here: between an anchor and the hardware stands nobody.

    Attributes:
        name: for policies and people; certificates in CBOR may name their issuer so.
        subject: the anchor's name as certificates below it have it (`certificates.Certificate.issuer`).
        public_key: the anchor's key.
        key_id: identifier of the key, where certificates below it name it.
        names_devices: believed when it certifies a UEID. One that is not cannot take the name of another's device.
    """

    name: str
    subject: str
    public_key: PublicKey
    key_id: bytes | None = None
    names_devices: bool = False

    @classmethod
    def of_certificate(cls, name: str, certificate: bytes, *, names_devices: bool = False) -> Manufacturer:
        """The anchor that a root certificate describes (DER, or a CBOR certificate).

        Raises:
            Malformed: no certificate, or one that may not certify.
        """
        root = parse_certificate(certificate)
        if not root.may_certify:
            raise Malformed(field=f"manufacturer {name}", value=root.subject, expected="a certificate that may certify")
        return cls(
            name=name,
            subject=root.subject,
            public_key=root.public_key,
            key_id=root.subject_key_id,
            names_devices=names_devices,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedChain:
    """What a chain proves.

    Attributes:
        manufacturer: name of the anchor.
        ueid: name of the device, derived from its hardware key or certified by a manufacturer that may.
        layers: the software from the boot loader to the application, each certified by the one before.
        attestation_key: signs evidence.
    """

    manufacturer: str
    ueid: Ueid
    layers: tuple[Layer, ...]
    attestation_key: PublicKey


@lru_cache(maxsize=4096)
def parse_certificate(data: bytes) -> Certificate:
    """Read a certificate of either form; remembered, as a device shows the same ones until its firmware changes.

    What is remembered is what the bytes say. Whether it is true is checked each time.

    Raises:
        Malformed: it is of none.
    """
    match data[:1]:
        case b"\x30":
            return dice_x509.parse(data)
        case b"\x84":
            return dice_cbor.parse(data)
        case start:
            raise Malformed(field="certificate", value=start, expected="X.509 in DER, or a COSE_Sign1")


def verify_chain(chain: Sequence[bytes], *, manufacturers: Iterable[Manufacturer], now: datetime) -> VerifiedChain:
    """Check a chain from its anchor to its attestation key.

    Args:
        chain: certificates as x5chain has them: the attestation key's first, that of the hardware last, no root.
        manufacturers: who is believed.
        now: for the validity of certificates.

    Raises:
        Malformed: a certificate cannot be read, or the chain is too short or too long.
        Untrusted: it does not lead to a manufacturer, or breaks a rule of the path.
    """
    if not 2 <= len(chain) <= MAX_CHAIN:
        raise Malformed(field="chain", value=f"{len(chain)} certificates", expected=f"2 to {MAX_CHAIN}")
    path = [parse_certificate(data) for data in reversed(chain)]
    hardware, leaf = path[0], path[-1]
    manufacturer = _anchor(hardware, manufacturers=manufacturers, now=now)
    for depth, (issuer, certificate) in enumerate(pairwise(path), start=1):
        what = f"certificate {depth} below the hardware's"
        _check_link(issuer, certificate, below=len(path) - 1 - depth, what=what)
        certificate.verify(issuer_key=issuer.public_key, now=now, what=what)
        if certificate.layer is None and certificate is not leaf:
            raise Untrusted(Reason.CHAIN_BROKEN, f"{what} describes no layer")
        if certificate.ueid is not None:
            raise Untrusted(Reason.CHAIN_BROKEN, f"{what} names the device, which its manufacturer alone may")
    if not leaf.may_attest or leaf.may_certify:
        raise Untrusted(Reason.CHAIN_BROKEN, "the last key of the chain is not one that attests and nothing else")
    layers = tuple(certificate.layer for certificate in path if certificate.layer is not None)
    if not layers:
        raise Untrusted(Reason.CHAIN_BROKEN, "the chain describes no layer of software")
    if leaf.raw_key == path[-2].raw_key:
        raise Untrusted(Reason.KEY_REUSED, "the attestation key is the one that certifies it")
    return VerifiedChain(
        manufacturer=manufacturer.name,
        ueid=_ueid(hardware, manufacturer),
        layers=layers,
        attestation_key=leaf.public_key,
    )


def _anchor(hardware: Certificate, *, manufacturers: Iterable[Manufacturer], now: datetime) -> Manufacturer:
    """The manufacturer that signed; several may have the same name, and each is tried."""
    refusal = None
    for manufacturer in manufacturers:
        if hardware.issuer not in {manufacturer.subject, manufacturer.name}:
            continue
        if not _same_key(hardware.authority_key_id, manufacturer.key_id):
            continue
        try:
            hardware.verify(issuer_key=manufacturer.public_key, now=now, what="the hardware's certificate")
        except Untrusted as error:
            refusal = error
        else:
            return manufacturer
    raise refusal or Untrusted(Reason.UNKNOWN_MANUFACTURER, f"no manufacturer is known as {hardware.issuer}")


def _check_link(issuer: Certificate, certificate: Certificate, *, below: int, what: str) -> None:
    """The rules between two neighbours that need no signature.

    Args:
        issuer: the upper one.
        certificate: the lower one.
        below: certificates under the lower one.
        what: for the message of an error.
    """
    if not issuer.may_certify:
        raise Untrusted(Reason.CHAIN_BROKEN, f"{what} is issued by a key that may not certify")
    if certificate.issuer != issuer.subject:
        raise Untrusted(Reason.CHAIN_BROKEN, f"{what} names {certificate.issuer} as issuer, not {issuer.subject}")
    if not _same_key(certificate.authority_key_id, issuer.subject_key_id):
        raise Untrusted(Reason.CHAIN_BROKEN, f"{what} is issued by another key of {issuer.subject}")
    # RFC 5280 counts the certifying certificates under the issuer and leaves the last certificate out.
    if issuer.path_length is not None and below > issuer.path_length:
        raise Untrusted(Reason.CHAIN_BROKEN, f"{what} is one more than its issuer allows below itself")


def _same_key(said: bytes | None, key_id: bytes | None) -> bool:
    return said is None or key_id is None or said == key_id


def _ueid(hardware: Certificate, manufacturer: Manufacturer) -> Ueid:
    if hardware.ueid is None:
        return Ueid.of_raw_uds(hardware.raw_key)
    if not manufacturer.names_devices:
        raise Untrusted(
            Reason.CHAIN_BROKEN, f"{manufacturer.name} certifies a UEID and is not one of those that name devices"
        )
    return hardware.ueid
