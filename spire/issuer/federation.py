"""Keeping the bundles of federated trust domains: who they are is read from a ConfigMap, what they are from themselves.

The last bundle that was believed stays until there is a newer one, for however long nobody answers. It is saved: an
issuer that comes back knows everybody whom it knew, before it has asked anyone.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final

import aiohttp
import structlog

from crds.errors import EdgeError, Retryable, Terminal
from crds.kube.queue import WorkQueue
from spire.domain import bundle as bundles
from spire.domain import federation as domain
from spire.domain.authorization import exactly
from spire.domain.bundle import MAX_DOCUMENT, Bundle
from spire.domain.federation import Configured, Endpoint, Known, Peer
from spire.domain.spiffe_id import TrustDomain
from spire.issuer import metrics
from spire.issuer.store import Changed, Store
from spire.observers import Observers
from spire.tls import anonymous_client_context

log = structlog.get_logger(__name__)

FETCH_SECONDS: Final = 20.0
ATTEMPTS: Final = 5


async def fetch(
    endpoint: Endpoint,
    *,
    known: Mapping[TrustDomain, tuple[bytes, ...]],
    trust_domain: TrustDomain,
    seconds: float = FETCH_SECONDS,
) -> Bundle:
    """Ask a bundle endpoint (profile `https_spiffe`). We show no SVID: whoever serves it may not know us yet.

    Args:
        endpoint: where, and who must answer.
        known: the roots by which whoever answers is believed.
        trust_domain: whose bundle it is.
        seconds: for everything, however slowly it comes.

    Raises:
        Retryable: nobody answers, not in time, or somebody else does.
        Malformed: the answer is no bundle.
        Terminal: its roots, or those that are known, are of no use to TLS.
    """
    authorize = exactly(endpoint.spiffe_id)
    named = endpoint.spiffe_id.trust_domain
    context = anonymous_client_context({named: known.get(named, ())}, authorize=authorize)
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, force_close=True),
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as session,
            # A redirect would lead to somebody whom nobody named.
            session.get(endpoint.url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise Retryable(f"{endpoint.url}: status {response.status}, expected 200")
            document = bytearray()
            async for chunk in response.content.iter_any():
                document += chunk
                if len(document) > MAX_DOCUMENT:
                    break
    except (aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError) as error:
        cause = error.__cause__ or error
        raise Retryable(f"{endpoint.url}: {type(error).__name__} {cause}") from error
    bundle = bundles.parse(bytes(document), trust_domain=trust_domain)
    # All of us would fail over a root that OpenSSL cannot read.
    anonymous_client_context({trust_domain: bundle.roots}, authorize=authorize)
    return bundle


class Federation:
    """The trust domains that are known beside our own. Made by `open`.

    Args:
        store: for what was fetched.
        known: what it held.
    """

    def __init__(self, store: Store, known: Mapping[TrustDomain, Known]) -> None:
        self._store = store
        self._known = dict(known)
        self._saved: bytes | None = domain.dump(known)
        self._saving = asyncio.Lock()
        self._peers: dict[TrustDomain, Peer] = {}
        self._observers: Observers[[]] = Observers()
        self._queue: WorkQueue[TrustDomain] = WorkQueue("bundles", self._look, workers=8)
        self.shorten: Callable[[timedelta], float] = lambda wanted: wanted.total_seconds() * random.uniform(0.8, 1.0)  # noqa: S311 - jitter, not a secret

    @classmethod
    async def open(cls, store: Store) -> Federation:
        """With what the store holds.

        Raises:
            InvalidField: it holds something else.
            EdgeError: it cannot be read.
        """
        document = await store.load()
        return cls(store, {} if document is None else domain.load(document))

    @property
    def bundles(self) -> dict[TrustDomain, tuple[bytes, ...]]:
        """Roots in DER by trust domain."""
        return {each: held.bundle.roots for each, held in self._known.items()}

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back when `bundles` may be another."""
        self._observers.add(callback)

    def configure(self, configured: Configured) -> None:
        """Know these from now on, and nobody else; ask them now."""
        before = self._known.keys()
        self._peers = {each: peer for each, peer in configured.items() if isinstance(peer, Peer)}
        self._use(domain.settle(self._known, configured))
        for each in before | self._peers.keys():
            self._queue.add(each)

    async def run(self) -> None:
        """Ask whom to ask, until cancelled."""
        await self._queue.run()

    async def _look(self, trust_domain: TrustDomain) -> float | None:
        await self._save()
        peer = self._peers.get(trust_domain)
        if peer is None or peer.endpoint is None:
            return None
        try:
            offered = await fetch(peer.endpoint, known=self.bundles, trust_domain=trust_domain)
            if self._peers.get(trust_domain) != peer:
                return 0.0
            held = self._known[trust_domain]
            taken = bundles.newer(offered, known=held.bundle)
        except Retryable as error:
            self._failed(trust_domain, "failed", error)
            raise
        except Terminal as error:
            self._failed(trust_domain, "refused", error)
            return self.shorten(domain.interval(self._known[trust_domain].bundle))
        metrics.BUNDLE_FETCHED.labels(str(trust_domain)).set_to_current_time()
        metrics.BUNDLE_FETCHES.labels(str(trust_domain), "same" if taken == held.bundle else "taken").inc()
        if taken != held.bundle:
            log.info("bundle taken", trust_domain=str(trust_domain), sequence=taken.sequence, roots=len(taken.roots))
            self._use({**self._known, trust_domain: Known(digest=held.digest, bundle=taken)})
            await self._save()
        return self.shorten(domain.interval(taken))

    def _failed(self, trust_domain: TrustDomain, outcome: str, error: EdgeError) -> None:
        metrics.BUNDLE_FETCHES.labels(str(trust_domain), outcome).inc()
        log.warning("bundle not fetched, the last one stays", trust_domain=str(trust_domain), error=str(error))

    def _use(self, known: dict[TrustDomain, Known]) -> None:
        for gone in self._known.keys() - known.keys():
            with suppress(KeyError):
                metrics.BUNDLE_FETCHED.remove(str(gone))
        self._known = known
        self._observers.tell()

    async def _save(self) -> None:
        """Write what is known, where that is not written yet.

        Raises:
            Retryable: it is not written now; what is known counts all the same.
        """
        async with self._saving:
            for _ in range(ATTEMPTS):
                document = domain.dump(self._known)
                if document == self._saved:
                    return
                try:
                    await self._store.save(document)
                except Changed:
                    await self._adopt()
                else:
                    self._saved = document
                    return
            raise Changed("the store of federated bundles changes all the time")

    async def _adopt(self) -> None:
        """Take in what another issuer wrote."""
        try:
            self._saved = await self._store.load()
            if self._saved is not None:
                self._use(domain.merge(self._known, domain.load(self._saved)))
        except Terminal as error:
            # Whoever repairs the store does not tell us.
            raise Retryable(str(error), after=60.0) from error
