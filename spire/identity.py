"""What a process knows about identity at one moment: who it is, and by which roots it knows others.

Where it comes from (`workload.py`, the issuer's own, a file, a test) and what is made of it (`tls.py`) meet here.
"""

from __future__ import annotations

import ssl
from base64 import encodebytes
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.domain.svid import parse_chain, spiffe_id_of
from spire.observers import Observers


@dataclass(frozen=True, slots=True)
class Svid:
    """An X.509-SVID and its key.

    Attributes:
        spiffe_id: what the leaf says.
        chain: DER, leaf first, the root left out.
        key: PKCS#8 in DER.
        expires: end of the leaf's validity.
    """

    spiffe_id: SpiffeId
    chain: tuple[bytes, ...]
    key: bytes = field(repr=False)
    expires: datetime

    @property
    def chain_pem(self) -> str:
        """The chain in PEM, leaf first."""
        return certificates_pem(self.chain)

    @property
    def key_pem(self) -> str:
        """The key in PEM, without a password."""
        return f"-----BEGIN PRIVATE KEY-----\n{encodebytes(self.key).decode()}-----END PRIVATE KEY-----\n"

    @classmethod
    def parse(cls, chain: Sequence[bytes], *, key: bytes) -> Svid:
        """An SVID from its bytes; the issuer is believed, so no signature is verified.

        Raises:
            Malformed: a chain that is none, or a leaf that is no SVID.
        """
        leaf = parse_chain(chain)[0]
        return cls(spiffe_id=spiffe_id_of(leaf), chain=tuple(chain), key=key, expires=leaf.not_valid_after_utc)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this process is and whom it knows.

    Attributes:
        svid: its own.
        bundles: roots in DER of its own trust domain and of the federated ones.
    """

    svid: Svid
    bundles: Mapping[TrustDomain, tuple[bytes, ...]]


class IdentitySource(Protocol):
    """An identity that is renewed."""

    @property
    def current(self) -> Identity:
        """The newest."""

    def on_change(self, callback: Callable[[Identity], None]) -> Callable[[], None]:
        """Call back at each renewal; returns the way to stop it."""


class FixedIdentity:
    """An `IdentitySource` that changes by `replace` alone; other sources hold one and feed it."""

    def __init__(self, identity: Identity) -> None:
        self._current = identity
        self._observers: Observers[[Identity]] = Observers()

    @property
    def current(self) -> Identity:
        """The newest."""
        return self._current

    def replace(self, identity: Identity) -> None:
        """Renew it and tell everybody who asked."""
        self._current = identity
        self._observers.tell(identity)

    def on_change(self, callback: Callable[[Identity], None]) -> Callable[[], None]:
        """Call back at each renewal; returns the way to stop it, which may be called twice."""
        return self._observers.add(callback)


def certificates_pem(certificates: Iterable[bytes]) -> str:
    """Certificates in DER as one PEM text."""
    return "".join(map(ssl.DER_cert_to_PEM_cert, certificates))
