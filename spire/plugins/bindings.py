"""Which key a device's evidence named: written where evidence is judged, read where certificates are made.

SPIRE shows an attestor the evidence and not the key, and a composer the key and not the evidence; they are two
processes, and only what lies on disk do they share. Without it, whoever carries a device's evidence could have its own
key certified (spiffe/spire issues 5713 and 6134).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crds.errors import InvalidField, Retryable
from spire.domain.errors import Reason, Untrusted
from spire.domain.keys import PublicKey
from spire.domain.spiffe_id import SpiffeId
from spire.domain.ueid import Ueid


class Bindings:
    """One file an ID in a folder that nobody else may enter.

    Args:
        folder: made when absent; must belong to this user alone.
        clock: now, in UTC.

    Raises:
        InvalidField: the folder cannot be used, or others may.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.stat()
        except OSError as error:
            raise InvalidField(field="bindings", value=str(folder), expected=f"a folder ({error.strerror})") from error
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise InvalidField(field="bindings", value=str(folder), expected="a folder of this user, mode 0700")
        self._folder = folder
        self._clock = clock

    def bind(self, spiffe_id: SpiffeId, *, key: PublicKey, ueid: Ueid) -> None:
        """Remember that evidence of this device named this key; an earlier key is forgotten.

        Raises:
            Retryable: it cannot be written now.
        """
        said = {
            "spiffeID": str(spiffe_id),
            "key": fingerprint(key),
            "ueid": str(ueid),
            "time": self._clock().timestamp(),
        }
        file = self._file(spiffe_id)
        draft = file.with_suffix(f".{os.getpid()}.{time.monotonic_ns()}")
        try:
            draft.write_bytes(orjson.dumps(said))
            draft.replace(file)
        except OSError as error:
            raise Retryable(f"bindings: {file.parent} cannot be written ({error.strerror})") from error

    def check(self, spiffe_id: SpiffeId, *, public_key: bytes, max_age: timedelta) -> Ueid:
        """The device whose evidence named this key.

        Args:
            spiffe_id: the ID that is to be certified.
            public_key: SubjectPublicKeyInfo in DER.
            max_age: how old the evidence may be.

        Raises:
            Untrusted: there is no such evidence, or it is too old, or it named another key.
        """
        try:
            said = orjson.loads(self._file(spiffe_id).read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            raise Untrusted(Reason.KEY_NOT_NAMED, f"no evidence of {spiffe_id} is known") from None
        if said["spiffeID"] != str(spiffe_id) or said["key"] != hashlib.sha256(public_key).hexdigest():
            raise Untrusted(Reason.KEY_NOT_NAMED, f"the evidence of {spiffe_id} names another key")
        age = self._clock().timestamp() - said["time"]
        if not 0 <= age <= max_age.total_seconds():
            raise Untrusted(Reason.KEY_NOT_NAMED, f"the evidence of {spiffe_id} is {age:.0f} s old")
        return Ueid(bytes.fromhex(said["ueid"]))

    def prune(self, *, max_age: timedelta) -> None:
        """Forget what is too old to be used."""
        limit = self._clock().timestamp() - max_age.total_seconds()
        for file in self._folder.iterdir():
            if file.stat().st_mtime < limit:
                file.unlink(missing_ok=True)

    def _file(self, spiffe_id: SpiffeId) -> Path:
        return self._folder / f"{hashlib.sha256(str(spiffe_id).encode()).hexdigest()}.json"


def fingerprint(key: PublicKey) -> str:
    """SHA-256 of the key's SubjectPublicKeyInfo, in hex."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
