"""Who of all that are known may talk here: small policies over a verified SPIFFE ID."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from spire.domain.errors import Reason, Untrusted
from spire.domain.spiffe_id import SpiffeId, TrustDomain

Authorize: TypeAlias = Callable[[SpiffeId], None]
"""Returns when the ID may talk here; raises `Untrusted` with `Reason.PEER_REFUSED` when not."""


def any_known() -> Authorize:
    """Everybody whose trust domain is known: for servers that decide per request."""

    def authorize(peer: SpiffeId) -> None:
        pass

    return authorize


def exactly(*ids: SpiffeId) -> Authorize:
    """These and nobody else; none when none is given."""
    return _permitting(lambda peer: peer in ids, " or ".join(map(str, ids)) or "nobody")


def in_domain(trust_domain: TrustDomain, *, path: str = "/endpoint/") -> Authorize:
    """IDs of one trust domain under a path: `/endpoint/` and `/endpoint` alike stand for all that is below.

    Args:
        trust_domain: whose.
        path: whole segments; without a slash at its end also an ID with this very path.
    """
    return _permitting(
        lambda peer: peer.trust_domain == trust_domain and _covers(path, peer.path), f"spiffe://{trust_domain}{path}"
    )


def under(path: str) -> Authorize:
    """IDs under a path (as in `in_domain`) of any trust domain that is known."""
    return _permitting(lambda peer: _covers(path, peer.path), f"one under {path}")


def _covers(path: str, peer: str) -> bool:
    return peer.startswith(path) if path.endswith("/") else peer == path or peer.startswith(f"{path}/")


def _permitting(permits: Callable[[SpiffeId], bool], expected: str) -> Authorize:
    def authorize(peer: SpiffeId) -> None:
        if not permits(peer):
            raise Untrusted(Reason.PEER_REFUSED, f"the peer is {peer}, expected {expected}")

    return authorize
