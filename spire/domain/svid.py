"""X.509-SVIDs: from a chain of certificates to the SPIFFE ID that it proves, or to why it proves none.

A TLS library checks against one pool of roots. With federation that pool holds the roots of others, and any of them
could sign an ID of ours: so a chain is checked here against the roots of its own trust domain alone (X509-SVID,
section 5; SPIFFE Federation, 7.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from crds.errors import InvalidField
from spire.domain.errors import Malformed, Reason, Untrusted
from spire.domain.spiffe_id import SpiffeId, TrustDomain

MAX_CHAIN = 8
MAX_CERTIFICATE = 16 * 1024

_UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def verify_svid(chain: Sequence[bytes], *, bundles: Mapping[TrustDomain, Sequence[bytes]], now: datetime) -> SpiffeId:
    """Whose chain this is.

    Args:
        chain: certificates in DER, the leaf's first.
        bundles: the roots in DER by which each trust domain is known.
        now: for the validity of certificates.

    Raises:
        Untrusted: it proves no SPIFFE ID; also where it cannot be read, as it comes from a peer.
    """
    try:
        leaf, *intermediates = parse_chain(chain)
        spiffe_id = spiffe_id_of(leaf)
    except Malformed as error:
        raise Untrusted(Reason.NOT_AN_SVID, str(error)) from error
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        valid = f"valid from {leaf.not_valid_before_utc} to {leaf.not_valid_after_utc}"
        raise Untrusted(Reason.NOT_VALID_NOW, f"the SVID of {spiffe_id} is {valid}, not now")
    roots = bundles.get(spiffe_id.trust_domain)
    if not roots:
        raise Untrusted(Reason.TRUST_DOMAIN_UNKNOWN, f"{spiffe_id}: no root of {spiffe_id.trust_domain} is known")
    try:
        store = Store([x509.load_der_x509_certificate(root) for root in roots])
        # A client's rules for both sides: a server's would ask for a DNS name, which an SVID need not have.
        verifier = PolicyBuilder().store(store).time(now).max_chain_depth(MAX_CHAIN).build_client_verifier()
        verifier.verify(leaf, intermediates)
    except (VerificationError, *_UNREADABLE) as error:
        message = f"{spiffe_id} is not signed by a root of {spiffe_id.trust_domain}: {error}"
        raise Untrusted(Reason.CHAIN_BROKEN, message) from error
    return spiffe_id


def parse_chain(chain: Sequence[bytes]) -> list[x509.Certificate]:
    """The certificates of a chain.

    Args:
        chain: DER, 1 to `MAX_CHAIN` of at most `MAX_CERTIFICATE` bytes.

    Raises:
        Malformed: one cannot be read, or there are too many, too large ones or none.
    """
    if not 1 <= len(chain) <= MAX_CHAIN:
        raise Malformed(field="chain", value=f"{len(chain)} certificates", expected=f"1 to {MAX_CHAIN}")
    return [_parse(data, what=f"chain[{number}]") for number, data in enumerate(chain)]


def _parse(data: bytes, *, what: str) -> x509.Certificate:
    if len(data) > MAX_CERTIFICATE:
        raise Malformed(field=what, value=f"{len(data)} bytes", expected=f"at most {MAX_CERTIFICATE} bytes")
    try:
        certificate = x509.load_der_x509_certificate(data)
    except _UNREADABLE as error:
        raise Malformed(field=what, value=data, expected="an X.509 certificate in DER") from error
    # The parser lets the signature end within a byte, which is no signature's length: two forms of one certificate.
    if data[-len(certificate.signature) - 1]:
        raise Malformed(field=what, value=data, expected="a signature of whole bytes")
    return certificate


def spiffe_id_of(leaf: x509.Certificate) -> SpiffeId:
    """The SPIFFE ID that a leaf certificate claims; nothing is verified but that the leaf has the form of an SVID.

    Raises:
        Malformed: not exactly one URI SAN, no SPIFFE ID with a path in it, or rights that a leaf must not have.
    """
    try:
        extensions = leaf.extensions
        uris = extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.UniformResourceIdentifier
        )
    except x509.ExtensionNotFound:
        uris = []
    except _UNREADABLE as error:
        raise Malformed(
            field="svid.extensions", value=str(error), expected="extensions as RFC 5280 has them"
        ) from error
    if len(uris) != 1:
        raise Malformed(field="svid.subjectAltName", value=uris, expected="exactly one URI")
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except InvalidField as error:
        raise Malformed(field="svid.subjectAltName", value=uris[0], expected=error.expected) from error
    if not spiffe_id.path:
        raise Malformed(field="svid.subjectAltName", value=uris[0], expected="an ID with a path")
    _check_rights(extensions)
    return spiffe_id


def _check_rights(extensions: x509.Extensions) -> None:
    """A leaf signs handshakes and nothing else (X509-SVID, 4.1 and 4.3); key usage must be said."""
    for extension in extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                raise Malformed(field="svid.basicConstraints", value="CA:TRUE", expected="no CA")
            case x509.KeyUsage() as usage if usage.key_cert_sign or usage.crl_sign or not usage.digital_signature:
                raise Malformed(field="svid.keyUsage", value=usage, expected="digitalSignature, and not to certify")
            case _:
                pass
    try:
        extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound:
        raise Malformed(field="svid.keyUsage", value=None, expected="digitalSignature") from None


def renewal_seconds(expires: datetime, *, now: datetime, jitter: float) -> float:
    """When to renew: after half of what is left, a tenth of it earlier or later, so that a fleet does not come at once.

    Args:
        expires: end of the SVID.
        now: the time.
        jitter: 0 to 1.
    """
    return (expires - now).total_seconds() * (0.45 + 0.1 * jitter)
