"""Certificates of Nubificus' dice-auth: an older dialect, in which a MAC address is the device secret.

Whoever knows the MAC can make the certificate, and since nobody signs a challenge, whoever has seen it can show it.
It is verified for migration and worth the tier Legacy, which nothing accepts unless a policy says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from spire.domain import dice_x509
from spire.domain.certificates import MAX_CERTIFICATE
from spire.domain.errors import Malformed, Reason, Untrusted
from spire.domain.verdict import Legacy

MAX_MEASUREMENT = 64
_PEM = b"-----BEGIN CERTIFICATE-----"


def looks_like(evidence: bytes) -> bool:
    """Whether this could be a certificate of the dialect; evidence of ours is never mistaken for one."""
    return evidence[:1] == b"\x30" or evidence.lstrip().startswith(_PEM)


def verify(certificate: bytes, *, roots: Mapping[str, bytes], now: datetime) -> Legacy:
    """Which of the known devices a certificate would belong to, if MAC addresses were secrets.

    Args:
        certificate: as `/onboard` returns it (DER) or as it is posted to dice-auth (PEM).
        roots: root certificates by MAC address, DER or PEM: what dice-auth keeps in its database.
        now: for the validity of certificates.

    Raises:
        Malformed: a certificate cannot be read.
        Untrusted: no root signed it.
    """
    shown = dice_x509.parse(_der(certificate))
    if shown.layer is None:
        raise Untrusted(Reason.CHAIN_BROKEN, "the certificate describes no layer of software")
    if not 0 < len(shown.layer.measurement) <= MAX_MEASUREMENT:
        raise Malformed(field="measurement", value=shown.layer.measurement, expected=f"1 to {MAX_MEASUREMENT} bytes")
    for mac, data in roots.items():
        root = dice_x509.parse(_der(data))
        if root.may_certify and root.subject == shown.issuer:
            shown.verify(issuer_key=root.public_key, now=now, what="the certificate")
            return Legacy(mac=mac, measurement=shown.layer.measurement)
    raise Untrusted(Reason.UNKNOWN_MANUFACTURER, f"no device is known whose root is {shown.issuer}")


def _der(certificate: bytes) -> bytes:
    if not certificate.lstrip().startswith(_PEM):
        return certificate
    try:
        if len(certificate) <= 2 * MAX_CERTIFICATE:
            return x509.load_pem_x509_certificate(certificate).public_bytes(Encoding.DER)
    except ValueError:
        pass
    raise Malformed(field="certificate", value=certificate, expected="one certificate in PEM")
