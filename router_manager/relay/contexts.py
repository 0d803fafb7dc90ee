"""TLS towards targets: one context for each expectation, so that no connection made for one peer serves another.

Connections are kept apart by their context. Whenever the relay's identity or the roots that it knows are renewed,
so are the contexts: the next request meets a new handshake, in which the target proves anew who it is. Who can do so no
longer gets nothing more; a request on its way is not touched.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from typing import assert_never

from crds.egress import EgressPolicy
from router_manager.domain.peers import Anybody, Certified, EndpointOf, Exactly, Peer
from spire.domain.authorization import exactly, in_domain
from spire.identity import Identity, IdentitySource, Svid
from spire.tls import client_context, show

_MAX_CONTEXTS = 1024


class UnprovableError(OSError):
    """Nobody can prove here to be who is expected."""


class Contexts:
    """Made when they are needed; the least used go first."""

    def __init__(self, source: IdentitySource | None, policy: EgressPolicy) -> None:
        """Use this identity; None is `--insecure`. The policy says whether anybody may be without TLS otherwise."""
        self._source = source
        self._policy = policy
        self._made: OrderedDict[Peer, ssl.SSLContext | None] = OrderedDict()
        self._made_for: Identity | None = None

    def of(self, peer: Peer, url: str) -> ssl.SSLContext | None:
        """For a connection to this peer at this URL; None has the system's roots, or is without TLS.

        Raises:
            UnprovableError: it is without TLS where that is not allowed, the peer's trust domain is unknown, or its
                roots are no certificates.
        """
        if isinstance(peer, Anybody) and self._source is not None:
            refusal = self._policy.plain_refusal(url)
            if refusal is not None:
                raise UnprovableError(refusal)
        identity = None if self._source is None else self._source.current
        if identity != self._made_for:
            self._made.clear()
            self._made_for = identity
        if peer not in self._made:
            self._made[peer] = self._make(peer)
        self._made.move_to_end(peer)
        if len(self._made) > _MAX_CONTEXTS:
            self._made.popitem(last=False)
        return self._made[peer]

    def _make(self, peer: Peer) -> ssl.SSLContext | None:
        source = self._source
        if isinstance(peer, Anybody):
            return None
        if isinstance(peer, Certified):
            return file_context(peer.roots, svid=None if source is None else source.current.svid)
        if source is None:
            if isinstance(peer, EndpointOf):
                return None
            raise UnprovableError(f"{peer.spiffe_id} is expected, which nobody can prove to a relay with --insecure")
        match peer:
            case Exactly(spiffe_id):
                domain, authorize = spiffe_id.trust_domain, exactly(spiffe_id)
            case EndpointOf(named):
                domain = named or source.current.svid.spiffe_id.trust_domain
                authorize = in_domain(domain, path="/endpoint/")
            case _:
                assert_never(peer)
        if not source.current.bundles.get(domain):
            raise UnprovableError(f"no roots of trust domain {domain} are known: is it federated with?")
        return client_context(source, authorize=authorize)


def file_context(roots: str, *, svid: Svid | None) -> ssl.SSLContext:
    """For a server with a certificate from a file: a chain to one of `roots` (PEM), and the host's name in it.

    Raises:
        UnprovableError: `roots` are no certificates.
    """
    try:
        context = ssl.create_default_context(cadata=roots)
    except ssl.SSLError as error:
        raise UnprovableError(f"caBundle: {error}") from error
    if svid is not None:
        show(context, svid)
    return context
