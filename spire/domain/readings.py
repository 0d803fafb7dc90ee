"""Readings that are signed where they are made: what a receiver can believe whoever carried them.

A device wraps a reading, or a batch of them, in a COSE_Sign1 by the key of its SVID. Everything is under the signature:
the reading's bytes, the sensor, a sequence number, the time, and the certificates that say whose key it is.

On the wire it is a JSON object, because that goes through brokers, relays and JSON bodies byte for byte: its member
`signed` holds the COSE_Sign1 in base64. Where the reading is itself a JSON object, its members stand beside that, and
filters and dashboards see them; they have to say what the signed bytes say.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from cryptography import x509

from spire.domain import cbor, cose, keys
from spire.domain.errors import Malformed, Reason, Untrusted
from spire.domain.keys import PrivateKey
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.domain.svid import verify_svid

MEMBER: Final = "signed"
MAX_MESSAGE: Final = 1 << 20
MAX_SENSOR: Final = 128
MAX_SEQUENCE: Final = 2**63 - 1
SKEW: Final = timedelta(minutes=5)
"""How far a device's clock may be ahead of the receiver's."""

_CWT_CLAIMS, _X5CHAIN = 15, 33
_IAT = 6
_SENSOR, _SEQUENCE = -70010, -70011
"""Private claims, as RFC 8392 allows below -65536."""
_MAX_TIME = 253402300799


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedReading:
    """What a device said.

    Attributes:
        spiffe_id: the device and its application.
        sensor: which of its sensors.
        payload: the reading's bytes.
        sequence: grows with every message of a sensor: one that was seen before came twice, or is played back.
        time: when it was signed, by the device's clock.
    """

    spiffe_id: SpiffeId
    sensor: str
    payload: bytes
    sequence: int
    time: datetime


def sign(
    payload: bytes, *, key: PrivateKey, chain: Sequence[bytes], sensor: str, sequence: int, time: datetime
) -> bytes:
    """The message of a reading, as a device sends it.

    Args:
        payload: the reading, or a batch; a JSON object also goes in the clear.
        key: of the device's SVID.
        chain: the SVID's certificates in DER, leaf first.
        sensor: which sensor, 1 to 128 characters.
        sequence: higher than that of every earlier message of this sensor.
        time: now.

    Raises:
        Malformed: the reading has a member `signed` of its own, or is too large.
    """
    headers = {
        _CWT_CLAIMS: {_IAT: int(time.timestamp()), _SEQUENCE: sequence, _SENSOR: sensor},
        _X5CHAIN: list(chain),
    }
    clear = _clear(payload)
    if MEMBER in clear:
        raise Malformed(field="payload", value=MEMBER, expected="a reading without a member of this name")
    signed = b64encode(cose.sign1(key, payload, protected=headers)).decode()
    message = orjson.dumps({**clear, MEMBER: signed})
    if len(message) > MAX_MESSAGE:
        raise Malformed(
            field="payload", value=f"{len(payload)} bytes", expected=f"a message within {MAX_MESSAGE} bytes"
        )
    return message


def verify(
    message: bytes,
    *,
    bundles: Mapping[TrustDomain, Sequence[bytes]],
    now: datetime,
    max_age: timedelta | None = None,
) -> VerifiedReading:
    """What a device said, if it did.

    The SVID has to have been valid when the reading was signed, not now: readings may wait in a spool for days. The
    device says when that was, so who has stolen a key could date readings back into its life: `max_age` bounds that.

    Args:
        message: the JSON object.
        bundles: roots in DER by which each trust domain is known.
        now: for readings from the future, and their age.
        max_age: how old a reading may be.

    Raises:
        Malformed: it is no message of this kind.
        Untrusted: it proves nothing; the reason says why.
    """
    said = _object(message)
    signed = cose.parse(_bytes(said.pop(MEMBER, None)), field=MEMBER, limit=MAX_MESSAGE)
    headers = _headers(signed)
    chain = _chain(headers[_X5CHAIN])
    claims = cbor.Fields(headers[_CWT_CLAIMS], field=f"{MEMBER}.claims")
    time = _time(claims.required(_IAT, int, "iat"))
    sequence = claims.required(_SEQUENCE, int, "sequence")
    sensor = claims.required(_SENSOR, str, "sensor")
    claims.nothing_else()
    if not 0 <= sequence <= MAX_SEQUENCE or not 0 < len(sensor) <= MAX_SENSOR:
        raise Malformed(field=f"{MEMBER}.claims", value=(sequence, sensor), expected="a sequence number and a sensor")
    if time > now + SKEW:
        raise Untrusted(Reason.NOT_VALID_NOW, f"signed at {time}, which is still to come")
    if max_age is not None and now - time > max_age:
        raise Untrusted(Reason.EXPIRED, f"signed at {time}, more than {max_age} ago")
    spiffe_id = verify_svid(chain, bundles=bundles, now=time)
    if not spiffe_id.path.startswith("/device/"):
        raise Untrusted(Reason.PEER_REFUSED, f"{spiffe_id} is no device")
    key = keys.supported(x509.load_der_x509_certificate(chain[0]).public_key())
    signed.verify(key, what="the reading")
    if said != _clear(signed.payload):
        raise Untrusted(Reason.CLAIM_CONTRADICTED, "what stands in the clear is not what was signed")
    return VerifiedReading(spiffe_id=spiffe_id, sensor=sensor, payload=signed.payload, sequence=sequence, time=time)


def _clear(payload: bytes) -> dict[str, Any]:
    """The members that go in the clear."""
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _object(message: bytes) -> dict[str, Any]:
    if len(message) > MAX_MESSAGE:
        raise Malformed(field="message", value=f"{len(message)} bytes", expected=f"at most {MAX_MESSAGE} bytes")
    try:
        said = orjson.loads(message)
    except orjson.JSONDecodeError as error:
        raise Malformed(field="message", value=message, expected=f"JSON ({error})") from error
    if not isinstance(said, dict):
        raise Malformed(field="message", value=said, expected="an object")
    return said


def _bytes(text: object) -> bytes:
    if isinstance(text, str):
        try:
            data = b64decode(text, validate=True)
        except ValueError:
            data = b""
        if data and b64encode(data).decode() == text:  # of all texts that decode to it, the one that we write
            return data
    raise Malformed(field=MEMBER, value=text, expected="a COSE_Sign1 in base64")


def _headers(signed: cose.Sign1) -> dict[object, object]:
    """All headers, which have to be under the signature."""
    protected = cbor.decode(signed.protected, field=f"{MEMBER}.protected", limit=MAX_MESSAGE)
    expected = {cose.ALGORITHM, _CWT_CLAIMS, _X5CHAIN}
    if not isinstance(protected, dict) or protected.keys() != expected or signed.headers.keys() != expected:
        raise Malformed(
            field=f"{MEMBER}.headers",
            value=sorted(signed.headers, key=repr),
            expected="algorithm, claims and x5chain, all of them signed",
        )
    return protected


def _chain(value: object) -> list[bytes]:
    match value:
        case [*parts] if len(chain := [part for part in parts if isinstance(part, bytes)]) == len(parts):
            return chain
        case _:
            raise Malformed(field=f"{MEMBER}.x5chain", value=value, expected="certificates in DER")


def _time(seconds: int) -> datetime:
    if not 0 <= seconds <= _MAX_TIME:
        raise Malformed(field=f"{MEMBER}.iat", value=seconds, expected="seconds since 1970")
    return datetime.fromtimestamp(seconds, tz=UTC)
