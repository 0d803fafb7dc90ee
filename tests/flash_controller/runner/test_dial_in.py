"""Which device is given an image that comes and asks for it."""

from __future__ import annotations

import ssl

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from crds.errors import Terminal
from flash_controller.reasons import ProtocolReason
from flash_controller.runner.dial_in import DialInTrust
from spire.domain.site import Site
from spire.domain.ueid import Ueid
from tests.spire.support import ACME, NONCE, NOW, device
from tests.spire.test_nubificus import MAC, legacy

ROOT, SHOWN = legacy()
SITE = Site(manufacturers=(ACME.anchor(),), legacy_roots={MAC: ROOT.public_bytes(Encoding.DER)})
FIELDED = Ueid(b"\x02" + bytes.fromhex(MAC.replace(":", "")))


def trust(ueid: Ueid | None) -> DialInTrust:
    return DialInTrust(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ueid, SITE, clock=lambda: NOW)


def refusal(trust: DialInTrust, evidence: bytes, nonce: bytes) -> Terminal:
    with pytest.raises(Terminal) as refused:
        trust.judge(evidence, nonce)
    assert refused.value.reason == ProtocolReason.INVALID_EVIDENCE
    return refused.value


def test_evidence_with_our_nonce_and_the_devices_name_opens_the_way() -> None:
    shown = device()
    trust(shown.claims.ueid).judge(shown.evidence(), NONCE)


def test_another_device_another_nonce_and_another_maker_do_not() -> None:
    shown, other = device(), device("another")
    assert str(other.claims.ueid) in str(refusal(trust(shown.claims.ueid), other.evidence(), NONCE))
    refusal(trust(shown.claims.ueid), shown.evidence(), NONCE[::-1])
    refusal(DialInTrust(trust(None).context, shown.claims.ueid, Site(), clock=lambda: NOW), shown.evidence(), NONCE)
    refusal(trust(shown.claims.ueid), b"\x00" * 64, NONCE)


def test_a_certificate_of_the_older_dialect_is_that_of_the_mac_address() -> None:
    certificate = SHOWN.public_bytes(Encoding.DER)
    trust(FIELDED).judge(certificate, b"")
    other = Ueid(b"\x02" + bytes.fromhex("f0f5bd00c289"))
    assert MAC in str(refusal(trust(other), certificate, b""))
    refusal(trust(FIELDED), legacy("f0:f5:bd:00:c2:89")[1].public_bytes(Encoding.DER), b"")


def test_a_device_without_a_name_is_known_by_its_address_alone() -> None:
    trust(None).judge(b"whatever", b"")
