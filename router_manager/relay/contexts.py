"""TLS towards targets: one context for each expectation, so that no connection made for one peer serves another.

aiohttp keeps connections apart by their context, and a context lives as long as the certificates that it was made for:
when a trust domain loses or changes its roots, the next request meets a new handshake.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias, assert_never

from router_manager.domain.peers import Anybody, Certified, EndpointOf, Exactly, Peer
from spire.domain.authorization import exactly, in_domain
from spire.identity import IdentitySource, Svid
from spire.tls import client_context, show

_MAX_CONTEXTS = 1024

Certificates: TypeAlias = tuple[bytes, ...]


class UnprovableError(OSError):
    """Nobody can prove here to be who is expected."""


class Contexts:
    """Made when they are needed; the least used go first."""

    def __init__(self, identity: IdentitySource | None) -> None:
        """Use this identity; None is `--insecure`."""
        self._identity = identity
        self._made: OrderedDict[Peer, tuple[Certificates, ssl.SSLContext]] = OrderedDict()

    def of(self, peer: Peer) -> ssl.SSLContext | bool:
        """What aiohttp takes as `ssl` of a request; True is the system's roots, or plain HTTP.

        Raises:
            UnprovableError: the peer's trust domain is unknown, or its roots are no certificates.
        """
        identity = self._identity
        if isinstance(peer, Anybody):
            return True
        if isinstance(peer, Certified):
            svid = None if identity is None else identity.current.svid
            chain = () if svid is None else svid.chain
            return self._kept(peer, chain, lambda: file_context(peer.roots, svid=svid))
        if identity is None:
            if isinstance(peer, EndpointOf):
                return True
            raise UnprovableError(f"{peer.spiffe_id} is expected, which nobody can prove to a relay with --insecure")
        match peer:
            case Exactly(spiffe_id):
                domain, authorize = spiffe_id.trust_domain, exactly(spiffe_id)
            case EndpointOf(named):
                domain = named or identity.current.svid.spiffe_id.trust_domain
                authorize = in_domain(domain, path="/endpoint/")
            case _:
                assert_never(peer)
        roots = identity.current.bundles.get(domain)
        if not roots:
            raise UnprovableError(f"no roots of trust domain {domain} are known: is it federated with?")
        return self._kept(peer, roots, lambda: client_context(identity, authorize=authorize))

    def _kept(self, peer: Peer, made_for: Certificates, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        made = self._made.get(peer)
        if made is None or made[0] != made_for:
            made = self._made[peer] = (made_for, make())
        self._made.move_to_end(peer)
        if len(self._made) > _MAX_CONTEXTS:
            self._made.popitem(last=False)
        return made[1]


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
