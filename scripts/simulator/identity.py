"""Who a simulated device is: its hardware, what its flash holds now, and what it says of that.

The flash is a file. Another image written into it is what runs next: the device starts again, and its certificates have
the new measurement, whatever the software that now runs may claim.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, Protocol, TypeAlias

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import Field

from crds.errors import InvalidField
from crds.models.base import Count, Model, Word
from scripts.simulator.dice import BOOT_LOADER, Device, Image
from scripts.simulator.factory import read_board
from spire.domain import cbor
from spire.domain.dice import Mode
from spire.domain.errors import Malformed
from spire.domain.keys import PrivateKey
from spire.domain.spiffe_id import TrustDomain
from spire.domain.ueid import Ueid
from spire.identity import Identity, Svid

MAX_ANSWER: Final = 65536
_MODES: Final = {"Normal": Mode.NORMAL, "Debug": Mode.DEBUG, "Recovery": Mode.RECOVERY}
_LIE: Final = b"\nThis code claims to be "
File = Annotated[str, Field(min_length=1, max_length=4096)]
Answer: TypeAlias = Identity | str
"""An SVID with the roots by which to know others, or why there is none."""


class BoardIdentity(Model):
    """What makes a simulated device one that attests, whatever it runs."""

    board: File
    """Its hardware: a file of `scripts.simulator.factory`."""
    mode: Literal["Normal", "Debug", "Recovery"] = "Normal"
    attest: Annotated[str, Field(max_length=261, pattern=r"^(https|mqtts)://[^/:@\s]+:[0-9]{1,5}$")]
    """Where it attests: at the issuer, or on the broker's listener for those without an identity."""
    bundle: File
    """PEM roots of its trust domain, by which it knows issuer and broker."""


class SimulatedIdentity(BoardIdentity):
    """A device whose flash is one file, which says nothing of what it is."""

    image: File
    """Its flash. Watched: another image in it is started at once."""
    application: Word
    version: Word | None = None
    counter: Count | None = None


class Store(Protocol):
    """What a board's boot layer starts from."""

    def read(self) -> Image:
        """What it holds.

        Raises:
            InvalidField: nothing.
        """

    def look(self) -> tuple[int, ...]:
        """Something else whenever it holds something else."""


class FileStore:
    """One file.

    Args:
        said: names it, and what is in it.
    """

    def __init__(self, said: SimulatedIdentity) -> None:
        self._said = said

    def read(self) -> Image:
        """See Store."""
        said = self._said
        try:
            code = Path(said.image).read_bytes()
        except OSError as error:
            raise InvalidField(field="identity.image", value=said.image, expected=f"a file ({error})") from error
        _, lies, claimed = code.rpartition(_LIE)  # what runs is this code, and this is what it does
        claim = bytes.fromhex(claimed.decode()) if lies else None
        return Image(code=code, application=said.application, version=said.version, counter=said.counter, claim=claim)

    def look(self) -> tuple[int, ...]:
        """See Store."""
        try:
            found = os.stat(self._said.image)
        except OSError:
            return ()
        return (found.st_mtime_ns, found.st_size, found.st_ino)


def tampered(code: bytes) -> bytes:
    """Code that does what it did, and something else; in its evidence it claims the measurement of the good one."""
    return code + _LIE + hashlib.sha512(code).hexdigest().encode()


class Firmware:
    """A device that starts what its flash holds.

    Args:
        said: its entry.
        store: its flash.

    Raises:
        InvalidField: a file of the entry is not what it should be.
    """

    def __init__(self, said: BoardIdentity, store: Store) -> None:
        self.said = said
        self._store = store
        self._board = read_board(Path(said.board))
        self._stamp: tuple[int, ...] = ()
        self._device: Device | None = None
        self.boot()

    @property
    def ueid(self) -> Ueid:
        """Its name, which no firmware changes."""
        return self._board.ueid

    @property
    def key(self) -> PrivateKey:
        """Of its SVID."""
        return self._running.own

    @property
    def rewritten(self) -> bool:
        """Whether the flash holds something else than what runs."""
        return self._store.look() != self._stamp

    def boot(self) -> None:
        """Start what the flash holds. The key of its SVID is kept, as an attacker would keep it.

        Raises:
            InvalidField: the flash cannot be read.
        """
        stamp = self._store.look()
        image = self._store.read()
        mode = _MODES[self.said.mode]
        own = self._device.own if self._device else None
        self._device = self._board.boot(Image(code=BOOT_LOADER).inputs(mode), image.inputs(mode), own=own)
        if image.claim is not None:
            claims = replace(self._device.claims, measurement=image.claim)
            self._device = replace(self._device, claims=claims)
        self._stamp = stamp

    def react(self, message: bytes) -> bytes | Answer:
        """What follows on a message of the issuer's: evidence and request on a challenge, else the end.

        Raises:
            InvalidField: it is neither a challenge, an SVID nor a refusal; or no ID names this application.
        """
        match cbor.decode(message, field="answer", limit=MAX_ANSWER):
            case {"nonce": bytes() as nonce, "trustDomain": str() as name}:
                csr = self._running.csr(trust_domain=TrustDomain(name))
                return cbor.encode([self._running.evidence(nonce=nonce), csr])
            case {"reason": str() as reason, "message": str() as why}:
                return f"{reason}: {why}"
            case {"chain": [*chain], "bundles": dict() as bundles} if all(type(each) is bytes for each in chain):
                key = self._running.own.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
                known = {TrustDomain(str(name)): tuple(roots) for name, roots in bundles.items()}
                return Identity(svid=Svid.parse(chain, key=key), bundles=known)
            case other:
                raise Malformed(field="answer", value=other, expected="a challenge, an SVID or a refusal")

    @property
    def _running(self) -> Device:
        if self._device is None:
            raise RuntimeError("nothing was started")
        return self._device


def renewal(identity: Identity, *, now: datetime) -> timedelta:
    """How long to wait before the next SVID: half of what is left."""
    return max(timedelta(), (identity.svid.expires - now) / 2)
