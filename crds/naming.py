"""Names of the objects that managers make: the same after every restart, and never the same for two things.

Names are made of a readable part and a hash of everything that tells things apart. The hash is what counts; the
readable part is cut where Kubernetes' limit of 253 characters needs it.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b32encode

MAX_NAME = 253


def leaf_device_name(*, source: str, namespace: str, device: str) -> str:
    """`<device>-<10 base32 characters>`: two sources may each have a device of the same name."""
    return _name(device, _base32("leaf-device", source, namespace, device, length=10))


def flavor_name(*, domain: str, leaf_namespace: str, leaf_name: str, sensor_uid: str) -> str:
    """`<domain>-sensor-<26 base32 characters>`: FLUIDOS' form with 130 bits where it has 16.

    A flavor's name is looked up across clusters, so the domain is part of the hash too.
    """
    unique = _base32("flavor", domain, leaf_namespace, leaf_name, sensor_uid, length=26)
    return _name(domain, f"sensor-{unique}")


def transaction_id(*, buyer: str, flavor: str, claim: str) -> str:
    """32 hex digits: a buyer who asks again for the same claim means the same transaction."""
    return _digest("transaction", buyer, flavor, claim).hex()[:32]


def contract_name(*, flavor: str, transaction: str) -> str:
    """`contract-<flavor>-<10 base32 characters>`: FLUIDOS' form, but one flavor can be sold more than once."""
    unique = _base32("contract", flavor, transaction, length=10)
    return _name(f"contract-{flavor.replace('.', '-')}", unique)


def flash_lease_name(device: str) -> str:
    """`flash-<LeafDevice>`: who holds it flashes the device."""
    name = f"flash-{device}"
    return name if len(name) <= MAX_NAME else _name(name, _base32("flash", device, length=10))


def adopted_name(readable: str, *parts: str) -> str:
    """`<readable>-<16 base32 characters>`: what is made for an order of somebody else's kind."""
    return _name(readable, _base32("adopted", *parts, length=16))


def adopted_job_name(*parts: str) -> str:
    """The same for a Job, whose pods carry its name as a label: 63 characters at most."""
    return f"firmware-{_base32('adopted-job', *parts, length=26)}"


def _digest(*parts: str) -> bytes:
    """SHA-256 over length-prefixed parts, so that ("a", "bc") and ("ab", "c") differ."""
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode()
        hashed.update(len(data).to_bytes(8, "big"))
        hashed.update(data)
    return hashed.digest()


def _base32(*parts: str, length: int) -> str:
    return b32encode(_digest(*parts)).decode().lower()[:length]


def _name(readable: str, unique: str) -> str:
    """A DNS-1123 subdomain; `unique` ends it."""
    clean = re.sub(r"[^a-z0-9.-]", "-", readable.lower())
    clean = re.sub(r"[.-]*\.[.-]*", ".", clean).lstrip(".-")
    return f"{clean[: MAX_NAME - 1 - len(unique)].rstrip('.-') or 'x'}-{unique}"
