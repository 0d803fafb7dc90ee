"""TCG DICE Attestation Architecture: the X.509 extensions that name a device and describe a layer."""

from __future__ import annotations

from typing import Annotated, Final

from cryptography import x509
from cryptography.hazmat import asn1

from spire.domain.certificates import Layer
from spire.domain.dice import Component, Mode
from spire.domain.errors import Malformed
from spire.domain.ueid import Ueid

ARC: Final = x509.ObjectIdentifier("2.23.133.5.4")
"""Under it, TCG's DICE architecture defines extensions."""
TCB_INFO: Final = x509.ObjectIdentifier(f"{ARC.dotted_string}.1")
UEID: Final = x509.ObjectIdentifier(f"{ARC.dotted_string}.4")

_NOT_CONFIGURED, _NOT_SECURE, _RECOVERY, _DEBUG = 0x80, 0x40, 0x20, 0x10


@asn1.sequence
class _Fwid:
    algorithm: x509.ObjectIdentifier
    digest: bytes


@asn1.sequence
class _TcbInfo:
    vendor: Annotated[str | None, asn1.Implicit(0)]
    model: Annotated[str | None, asn1.Implicit(1)]
    version: Annotated[str | None, asn1.Implicit(2)]
    svn: Annotated[int | None, asn1.Implicit(3)]
    layer: Annotated[int | None, asn1.Implicit(4)]
    index: Annotated[int | None, asn1.Implicit(5)]
    fwids: Annotated[list[_Fwid] | None, asn1.Implicit(6)]
    flags: Annotated[asn1.BitString | None, asn1.Implicit(7)]
    vendor_info: Annotated[bytes | None, asn1.Implicit(8)]
    type: Annotated[bytes | None, asn1.Implicit(9)]


@asn1.sequence
class _TcgUeid:
    ueid: bytes


def layer_of_tcb_info(extension: bytes) -> Layer:
    """The layer that a DiceTcbInfo describes.

    Raises:
        Malformed: it does not describe one measurement, or says things that we do not know (integrity registers).
        ValueError: it is no DER of a DiceTcbInfo.
    """
    said = asn1.decode_der(_TcbInfo, extension)
    # Several digests may be one component hashed twice or two components: what one cannot know, one cannot compare.
    if said.fwids is None or len(said.fwids) != 1:
        raise Malformed(field="tcbInfo.fwids", value=said.fwids, expected="one measurement")
    if said.svn is not None and said.svn < 0:
        raise Malformed(field="tcbInfo.svn", value=said.svn, expected="0 or more")
    return Layer(
        measurement=said.fwids[0].digest,
        mode=_mode(said.flags),
        component=Component(name=said.model, version=said.version, security_counter=said.svn),
    )


def ueid_of(extension: bytes) -> Ueid:
    """The name in a tcg-dice-Ueid.

    Raises:
        Malformed: it is no UEID.
        ValueError: it is no DER of the extension.
    """
    return Ueid(asn1.decode_der(_TcgUeid, extension).ueid)


def ueid_extension(ueid: Ueid) -> bytes:
    """DER of a tcg-dice-Ueid."""
    return asn1.encode_der(_TcgUeid(ueid=ueid.value))


def _mode(flags: asn1.BitString | None) -> Mode:
    """The worst that the flags say; saying nothing is not saying that all is well."""
    if flags is None:
        return Mode.NOT_CONFIGURED
    bits = flags.as_bytes()[0] if flags.as_bytes() else 0
    if bits & _NOT_CONFIGURED:
        return Mode.NOT_CONFIGURED
    if bits & (_DEBUG | _NOT_SECURE):
        return Mode.DEBUG
    return Mode.RECOVERY if bits & _RECOVERY else Mode.NORMAL
