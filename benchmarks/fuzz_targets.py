"""What strangers' bytes reach first, for a fuzzer: each may refuse its input in our words, and in no others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks import fuzz_firmware, fuzz_relay
from crds.errors import InvalidField
from crds.predicate import compile_predicate
from scripts.simulator.dice import BOOT_LOADER, Device, Image
from scripts.simulator.factory import Factory
from spire.domain import bundle, cbor, cose, eat, nubificus, readings, svid, x509_reader
from spire.domain.appraisal import Appraisal
from spire.domain.authority import key_of_csr
from spire.domain.certificates import Certificate, layer_of
from spire.domain.chain import parse_certificate
from spire.domain.errors import Untrusted
from spire.domain.keys import Curve
from spire.domain.policy import ModeIn
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from tests.spire.pki import Ca

NOW = datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Target:
    """A parser.

    Attributes:
        parse: takes bytes; an exception that it lets out is a bug.
        seeds: good input, to start from.
    """

    parse: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


def targets() -> dict[str, Target]:
    """All of them, by name."""
    factory, ca = Factory.found("acme"), Ca.of("site.test")
    devices = tuple(_device(factory, form, curve) for form in ("cbor", "x509") for curve in Curve)
    certificates = tuple(certificate for device in devices for certificate in device.chain)
    evidence = tuple(device.evidence() for device in devices)
    key = ec.generate_private_key(ec.SECP256R1())
    untagged = tuple(one[1:] for one in evidence)
    own = ca.svid("/device/0101/app/thermo", key=key)
    message = readings.sign(b'{"value": 1}', key=key, chain=own.chain, sensor="hts221", sequence=1, time=NOW)
    bundles = {ca.trust_domain: (ca.root,)}
    # The dialect's two certificates are those of hardware and boot loader, without a manufacturer.
    hardware, layer = next(device.chain[:1:-1] for device in devices if device.chain[0].startswith(b"\x30"))
    pem = ca.certificate.public_bytes(Encoding.PEM)
    document = bundle.to_json(bundle.Bundle(trust_domain=ca.trust_domain, roots=(ca.root,), sequence=1))

    def appraise(data: bytes) -> None:
        appraisal = Appraisal(manufacturers=(factory.anchor(names_devices=True),), policy=ModeIn(), now=NOW)
        token = eat.parse(data)
        appraisal.accept_chain(token.chain)
        appraisal.accept_evidence(token, nonce=token.nonce)
        appraisal.verdict()

    def certificate(data: bytes) -> None:
        read = parse_certificate(data)
        if data.startswith(b"\x30"):
            same_as_cryptography(data, read)

    def one_spelling(data: bytes) -> None:
        assert cbor.encode(cbor.decode(data, field="x", limit=1 << 16)) == data

    return {
        "appraisal": Target(appraise, evidence),
        "bundle": Target(lambda data: bundle.parse(data, trust_domain=TrustDomain("site.test")), (document,)),
        "bundle_pem": Target(lambda data: bundle.parse_pem(data, trust_domain=TrustDomain("site.test")), (pem,)),
        "cbor": Target(one_spelling, untagged),
        "certificate": Target(certificate, certificates),
        "cose": Target(lambda data: cose.parse(data, field="x", limit=1 << 16), untagged),
        "csr": Target(key_of_csr, tuple(device.csr() for device in devices)),
        "eat": Target(lambda data: eat.parse(data).claims(devices[0].attestation.public_key()), evidence[:1]),
        "nubificus": Target(lambda data: nubificus.verify(data, roots={"mac": hardware}, now=NOW), (layer,)),
        "readings": Target(lambda data: readings.verify(data, bundles=bundles, now=NOW), (message,)),
        "spiffe_id": Target(lambda data: SpiffeId.parse(data.decode("utf-8", "replace")), (b"spiffe://a.b/c/d",)),
        "svid": Target(lambda data: svid.verify_svid([data], bundles=bundles, now=NOW), (own.chain[0],)),
        **{name: Target(*each) for name, each in (fuzz_firmware.targets() | fuzz_relay.targets()).items()},
    }


def run(target: Target, data: bytes) -> None:
    """Give a target its input; raises what it must not let out."""
    # What is remembered would hide from the fuzzer which code its input reaches.
    for remembering in (parse_certificate, layer_of, compile_predicate, *x509_reader.REMEMBERED):
        remembering.cache_clear()
    with suppress(InvalidField, Untrusted, *fuzz_relay.REFUSALS):
        target.parse(data)


def _device(factory: Factory, form: str, curve: Curve) -> Device:
    board = factory.board(bytes(range(32)), form=form, curve=curve)
    firmware = Image(code=b"thermometer", application="thermo", version="1.2", counter=7)
    return board.boot(Image(code=BOOT_LOADER).inputs(), firmware.inputs())


def same_as_cryptography(data: bytes, read: Certificate) -> None:
    """What we read in an X.509 certificate is what the library that understands all of it reads."""
    certificate = x509.load_der_x509_certificate(data)
    assert isinstance(read.signed, x509_reader.Signed)
    assert read.signed.message == certificate.tbs_certificate_bytes
    assert read.signed.value == certificate.signature
    assert [read.issuer, read.subject] == [_text(name) for name in (certificate.issuer, certificate.subject)]
    assert read.public_key == certificate.public_key()
    assert [read.not_before, read.not_after] == [certificate.not_valid_before_utc, certificate.not_valid_after_utc]
    try:
        said = {type(each.value): each.value for each in certificate.extensions}
    except ValueError:
        return  # of an extension, maybe, that does not concern us
    usage, constraints = said.get(x509.KeyUsage), said.get(x509.BasicConstraints)
    assert read.may_attest == (isinstance(usage, x509.KeyUsage) and usage.digital_signature)
    assert read.may_certify == (isinstance(usage, x509.KeyUsage) and usage.key_cert_sign and _is_ca(constraints))
    assert read.path_length == getattr(constraints, "path_length", None)
    assert read.subject_key_id == getattr(said.get(x509.SubjectKeyIdentifier), "digest", None)
    assert read.authority_key_id == (getattr(said.get(x509.AuthorityKeyIdentifier), "key_identifier", None) or None)


def _is_ca(constraints: x509.ExtensionType | None) -> bool:
    return isinstance(constraints, x509.BasicConstraints) and constraints.ca


def _text(name: x509.Name) -> str:
    attributes = list(name)
    lone = len(attributes) == 1 and attributes[0].oid == x509.NameOID.SERIAL_NUMBER
    return str(attributes[0].value) if lone else name.rfc4514_string()
