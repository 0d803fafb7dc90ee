"""Mutual TLS between SPIFFE IDs, for asyncio, uvloop and blocking sockets.

OpenSSL knows one pool of roots, so its verdict is a first sieve. What decides comes after it and before the
application sees a byte: the peer's chain is verified against the roots of its own trust domain alone, and its ID
against the policy.
An identity is renewed on the living context, so connections stay and new handshakes use the new SVID. Roots that are
gone stay in OpenSSL's pool until the process ends, and count for nothing in the verdict.
"""

from __future__ import annotations

import _ssl
import asyncio
import os
import ssl
import sys
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import structlog

from crds.errors import Terminal
from spire import metrics
from spire.domain.authorization import Authorize
from spire.domain.errors import Untrusted
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.domain.svid import verify_svid
from spire.identity import Identity, IdentitySource, Svid

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_log = structlog.get_logger(__name__)


def server_context(
    source: IdentitySource,
    *,
    authorize: Authorize,
    client_certificates: Literal["required", "optional"] = "required",
) -> ssl.SSLContext:
    """A server that shows `source`'s SVID.

    Args:
        source: its identity.
        authorize: which clients may speak; not asked about clients without a certificate.
        client_certificates: `optional` lets clients in that show none (`peer_of` is None for them).

    Raises:
        Terminal: key and chain do not belong together.
    """
    context = _SpiffeContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED if client_certificates == "required" else ssl.CERT_OPTIONAL
    # Tickets would let peers come back without showing a certificate; TLS 1.2's session IDs stay, and are judged anew.
    context.num_tickets = 0
    return _renewed(context, source, authorize)


def client_context(source: IdentitySource, *, authorize: Authorize) -> ssl.SSLContext:
    """A client that shows `source`'s SVID; `authorize` says which servers it speaks to. Host names do not matter.

    Raises:
        Terminal: key and chain do not belong together.
    """
    return _renewed(_client(), source, authorize)


def anonymous_client_context(
    bundles: Mapping[TrustDomain, tuple[bytes, ...]], *, authorize: Authorize
) -> ssl.SSLContext:
    """A client that shows nothing, as one that has no SVID yet; it is as strict as others about the server.

    Raises:
        Terminal: OpenSSL cannot read a root.
    """
    context = _client()
    _prepare(context, bundles=lambda: bundles, authorize=authorize)
    try:
        context.know(bundles)
    except ssl.SSLError as error:
        raise Terminal(f"a root is of no use to TLS: {error}") from error
    return context


def show(context: ssl.SSLContext, svid: Svid) -> None:
    """Have any context show this SVID in the handshakes to come.

    Raises:
        ssl.SSLError: OpenSSL refuses key or chain.
    """
    # OpenSSL reads keys from files only; this one is in memory and goes with its descriptor.
    with open(os.memfd_create("svid", os.MFD_CLOEXEC), "wb") as file:
        file.write((svid.chain_pem + svid.key_pem).encode())
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")


def peer_of(transport: asyncio.BaseTransport | None) -> SpiffeId | None:
    """Who is at the other end of a connection; None without TLS of ours or without a client certificate."""
    secured = None if transport is None else transport.get_extra_info("ssl_object")
    return secured.peer if isinstance(secured, _SpiffeObject) else None


class _SpiffeObject(ssl.SSLObject):
    """One connection of an event loop."""

    peer: SpiffeId | None = None

    def do_handshake(self) -> None:
        super().do_handshake()
        self.peer = _admitted(self)


class _SpiffeSocket(ssl.SSLSocket):
    """One connection of a blocking user, who may leave the handshake to the first read or write."""

    peer: SpiffeId | None = None
    _done = False

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the base class' signature
        super().do_handshake(block)
        self.peer = _admitted(self)
        self._done = True

    def read(self, len: int = 1024, buffer: WriteableBuffer | None = None) -> Any:  # noqa: A002 - as above
        self._shake_hands()
        return super().read(len, buffer)

    def write(self, data: ReadableBuffer) -> int:
        self._shake_hands()
        return super().write(data)

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        self._shake_hands()
        return super().send(data, flags)

    def _shake_hands(self) -> None:
        if not self._done:
            self.do_handshake()


class _SpiffeContext(ssl.SSLContext):
    """A context whose handshakes end with our verdict."""

    sslobject_class = _SpiffeObject
    sslsocket_class = _SpiffeSocket
    bundles: Callable[[], Mapping[TrustDomain, tuple[bytes, ...]]]
    authorize: Authorize

    def use(self, identity: Identity) -> None:
        """Take an identity for the handshakes to come.

        Raises:
            ssl.SSLError: OpenSSL refuses key, chain or a root.
        """
        show(self, identity.svid)
        self.know(identity.bundles)

    def know(self, bundles: Mapping[TrustDomain, tuple[bytes, ...]]) -> None:
        """Let the handshakes to come pass with these roots, too.

        Raises:
            ssl.SSLError: OpenSSL cannot read one.
        """
        for roots in bundles.values():
            for root in roots:
                self.load_verify_locations(cadata=root)

    def admit(self, chain: list[bytes]) -> SpiffeId | None:
        """The peer that shows this chain; None when it shows none and need not.

        Raises:
            ssl.SSLCertVerificationError: it is refused; the error's cause is the `Untrusted` that says why.
        """
        if not chain and self.verify_mode is ssl.CERT_OPTIONAL:
            return None
        try:
            peer = verify_svid(chain, bundles=self.bundles(), now=datetime.now(UTC))
            self.authorize(peer)
        except Untrusted as error:
            metrics.PEERS_REFUSED.labels(error.reason).inc()
            _log.info("peer refused", reason=error.reason, problem=str(error))
            raise ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, f"{error.reason}: {error}") from error
        return peer


def _client() -> _SpiffeContext:
    context = _SpiffeContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _prepare(
    context: _SpiffeContext, *, bundles: Callable[[], Mapping[TrustDomain, tuple[bytes, ...]]], authorize: Authorize
) -> None:
    context.bundles = bundles
    context.authorize = authorize
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A renegotiation could make the peer another one behind our back.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    # Anchors are what the bundle says, also where an intermediate CA is one.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def _renewed(context: _SpiffeContext, source: IdentitySource, authorize: Authorize) -> ssl.SSLContext:
    _prepare(context, bundles=lambda: source.current.bundles, authorize=authorize)
    try:
        context.use(source.current)
    except ssl.SSLError as error:
        raise Terminal(
            f"{source.current.svid.spiffe_id}: key and certificates are of no use to TLS: {error}"
        ) from error
    # The source outlives contexts and must not keep them alive.
    reference = weakref.ref(context)

    def renew(identity: Identity) -> None:
        living = reference()
        if living is None:
            return
        try:
            living.use(identity)
        except ssl.SSLError as error:
            _log.error("renewed identity refused by TLS", spiffe_id=str(identity.svid.spiffe_id), error=str(error))

    weakref.finalize(context, source.on_change(renew))
    return context


def _admitted(secured: _SpiffeObject | _SpiffeSocket) -> SpiffeId | None:
    context = secured.context
    if not isinstance(context, _SpiffeContext):
        msg = f"the connection's context became a {type(context).__name__}"
        raise ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, msg)
    return context.admit(_peer_chain(secured))


def _peer_chain(secured: ssl.SSLObject | ssl.SSLSocket) -> list[bytes]:
    """What the peer showed, in DER: public from Python 3.13, in the object beneath before."""
    if sys.version_info >= (3, 13):
        return secured.get_unverified_chain()
    beneath = secured._sslobj  # type: ignore[union-attr]  # noqa: SLF001 - the only way before Python 3.13
    shown = beneath.get_unverified_chain() or ()
    # A server sees one None where a client shows no certificate.
    return [certificate.public_bytes(_ssl.ENCODING_DER) for certificate in shown if certificate is not None]
