"""Evidence: an Entity Attestation Token (RFC 9711) as COSE_Sign1, signed by a device's attestation key.

Our profile: tag 18; the chain of certificates in the header x5chain (RFC 9360 knows X.509 there, this profile allows
DICE's CBOR certificates too); nonce, ueid, profile, debug state, software name and version, the measurement of the
application's layer, and `cnf`, the key that the device wants a certificate for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from spire.domain import cbor, cose
from spire.domain.cbor import Fields
from spire.domain.errors import Malformed
from spire.domain.keys import PrivateKey, PublicKey
from spire.domain.ueid import Ueid

PROFILE: Final = "tag:fluidos.eu,2026:dice-evidence"
MAX_TOKEN: Final = 16384
MAX_TEXT: Final = 128

_X5CHAIN = 33
_CNF, _NONCE, _UEID, _DBGSTAT, _PROFILE = 8, 10, 256, 263, 265
_SWNAME, _SWVERSION, _MEASUREMENTS = 270, 271, 273
_CNF_KEY = 1
_OCTETS = 42
"""CoAP's number for bytes without a format, which a digest is."""


class DebugState(IntEnum):
    """RFC 9711, section 4.2.9."""

    ENABLED = 0
    DISABLED = 1
    DISABLED_SINCE_BOOT = 2
    DISABLED_PERMANENTLY = 3
    DISABLED_FULLY_AND_PERMANENTLY = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a device says of itself. What counts for trust must also stand in its certificates.

    Attributes:
        nonce: the challenge that it answers, 8 to 64 bytes.
        ueid: its name.
        key: the key that it wants certified.
        debug: whether debugging is possible.
        software_name: the application that runs.
        software_version: its version.
        measurement: what the application's code was measured as.
    """

    nonce: bytes
    ueid: Ueid
    key: PublicKey
    debug: DebugState
    software_name: str
    software_version: str | None
    measurement: bytes


class Token(NamedTuple):
    """A token as read: nothing in it is believed yet, `claims` is the way to what is.

    Attributes:
        chain: the certificates that it brings, the attestation key's first; empty where they travel apart.
        nonce: the challenge that it says it answers.
        signed: the signature and what is under it.
        said: all claims.
    """

    chain: tuple[bytes, ...]
    nonce: bytes
    signed: cose.Sign1
    said: Fields

    def claims(self, key: PublicKey) -> Claims:
        """What `key` signed.

        Raises:
            Untrusted: it did not sign this.
            Malformed: a claim of the profile is missing or of another type. Others are left alone, as RFC 9711 asks.
        """
        self.signed.verify(key, what="the evidence")
        said = self.said
        profile = said.required(_PROFILE, str, "eat_profile")
        if profile != PROFILE:
            raise Malformed(field="eat.eat_profile", value=profile, expected=PROFILE)
        confirmation = Fields(said.required(_CNF, dict, "cnf"), field="eat.cnf")
        debug = said.required(_DBGSTAT, int, "dbgstat")
        if not 0 <= debug <= DebugState.DISABLED_FULLY_AND_PERMANENTLY:
            raise Malformed(field="eat.dbgstat", value=debug, expected="0 to 4")
        return Claims(
            nonce=self.nonce,
            ueid=Ueid(said.required(_UEID, bytes, "ueid")),
            key=cose.decode_key(confirmation.required(_CNF_KEY, dict, "COSE_Key"), field="eat.cnf"),
            debug=DebugState(debug),
            software_name=_text(said.required(_SWNAME, str, "swname"), "swname"),
            software_version=_version(said.optional(_SWVERSION, list, "swversion")),
            measurement=_measurement(said.required(_MEASUREMENTS, list, "measurements")),
        )


def parse(token: bytes) -> Token:
    """Read a token.

    Raises:
        Malformed: no COSE_Sign1 under tag 18, with other headers than algorithm and chain, or without a nonce.
    """
    if token[:1] != cose.TAG:
        raise Malformed(field="eat", value=token[:1], expected="tag 18, COSE_Sign1")
    signed = cose.parse(token[1:], field="eat", limit=MAX_TOKEN)
    if not signed.headers.keys() <= {cose.ALGORITHM, _X5CHAIN}:
        raise Malformed(field="eat.headers", value=list(signed.headers), expected="algorithm and x5chain alone")
    chain: tuple[bytes, ...]
    match signed.headers.get(_X5CHAIN, []):
        case bytes() as one:
            chain = (one,)
        case [*several] if len(chain := tuple(part for part in several if isinstance(part, bytes))) == len(several):
            pass
        case other:
            raise Malformed(field="eat.x5chain", value=other, expected="one or more certificates")
    said = Fields.decode(signed.payload, field="eat", limit=MAX_TOKEN)
    nonce = said.required(_NONCE, bytes, "nonce")
    if not 8 <= len(nonce) <= 64:
        raise Malformed(field="eat.nonce", value=nonce, expected="8 to 64 bytes")
    return Token(chain=chain, nonce=nonce, signed=signed, said=said)


def encode(claims: Claims, *, key: PrivateKey, chain: tuple[bytes, ...]) -> bytes:
    """Sign claims as a device does.

    Args:
        claims: what to say.
        key: the attestation key.
        chain: its certificates, its own first.
    """
    said: dict[int, object] = {
        _CNF: {_CNF_KEY: cose.encode_key(claims.key)},
        _NONCE: claims.nonce,
        _UEID: claims.ueid.value,
        _DBGSTAT: claims.debug.value,
        _PROFILE: PROFILE,
        _SWNAME: claims.software_name,
        _SWVERSION: [claims.software_version],
        _MEASUREMENTS: [[_OCTETS, claims.measurement]],
    }
    if claims.software_version is None:
        del said[_SWVERSION]
    # In the signed header, so that the signature also covers which certificates were meant.
    return cose.TAG + cose.sign1(key, cbor.encode(said), protected={_X5CHAIN: list(chain)} if chain else None)


def _text(text: str, name: str) -> str:
    if not 0 < len(text) <= MAX_TEXT:
        raise Malformed(field=f"eat.{name}", value=text, expected=f"1 to {MAX_TEXT} characters")
    return text


def _version(version: list[object] | None) -> str | None:
    match version:
        case None:
            return None
        case [str() as text] | [str() as text, int()]:  # the second says how the text is built, which nobody needs
            return _text(text, "swversion")
        case _:
            raise Malformed(field="eat.swversion", value=version, expected="a text in an array")


def _measurement(measurements: list[object]) -> bytes:
    match measurements:
        case [[42, bytes() as digest]]:
            return digest
        case _:
            raise Malformed(field="eat.measurements", value=measurements, expected="one digest as application/octets")
