"""Which authority signs, and what has to run beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, assert_never

from crds.errors import InvalidField
from crds.kube.client import Kube
from spire.adapters.spire_authority import SpireAuthority
from spire.adapters.spire_server import spire_server
from spire.issuer.authority import Authority, EmbeddedAuthority
from spire.issuer.federation import Federation
from spire.issuer.peers import Peers
from spire.issuer.settings import IssuerSettings
from spire.issuer.store import FileStore, SecretStore, Store, locked
from spire.plugins.bindings import Bindings

AUTHORITY: Final = "fluidos-edge-identity-authority"
FEDERATION: Final = "fluidos-edge-identity-federation"
"""Secrets, where there is no directory."""


@dataclass(frozen=True, slots=True)
class Backend:
    """An authority and its work."""

    authority: Authority
    work: tuple[Callable[[], Coroutine[Any, Any, None]], ...]


@asynccontextmanager
async def backend_of(settings: IssuerSettings, kube: Kube) -> AsyncIterator[Backend]:
    """The authority that the settings name.

    Raises:
        EdgeError: its store is damaged, in use, of another trust domain, or away.
    """
    match settings.authority:
        case "embedded":
            lock, keys, peers = _stores(settings, kube)
            with lock:
                yield await _embedded(settings, kube, keys=keys, peers=peers)
        case "spire":
            if settings.spire_socket is None:
                raise InvalidField(field="--spire-socket", value=None, expected="a socket, for --authority spire")
            bindings = None if settings.bindings is None else Bindings(settings.bindings)
            async with spire_server(settings.spire_socket) as server:
                authority = await SpireAuthority.of(server, trust_domain=settings.domain, bindings=bindings)
                yield Backend(authority, (authority.run,))
        case _:
            assert_never(settings.authority)


def _stores(settings: IssuerSettings, kube: Kube) -> tuple[AbstractContextManager[None], Store, Store]:
    directory = settings.state_dir
    if directory is not None:
        return locked(directory), FileStore(directory / "authority.json"), FileStore(directory / "federation.json")
    keys, peers = (SecretStore(kube, namespace=settings.namespace, name=name) for name in (AUTHORITY, FEDERATION))
    return nullcontext(), keys, peers


async def _embedded(settings: IssuerSettings, kube: Kube, *, keys: Store, peers: Store) -> Backend:
    authority = await EmbeddedAuthority.open(
        keys,
        trust_domain=settings.domain,
        lifetime=timedelta(seconds=settings.ca_seconds),
        refresh_hint=timedelta(seconds=settings.refresh_hint_seconds),
    )
    federation = await Federation.open(peers)
    authority.learn(federation.bundles)
    federation.on_change(lambda: authority.learn(federation.bundles))
    configured = Peers(kube, federation=federation, namespace=settings.namespace, own=settings.domain)
    return Backend(authority, (authority.run, federation.run, configured.run))
