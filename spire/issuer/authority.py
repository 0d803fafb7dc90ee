"""Who signs SVIDs: the Protocol that the issuer is written against, and the authority that it brings along.

`EmbeddedAuthority` keeps its keys in a `Store`. What it decides is saved before anybody sees it: a key that signs, or
stands in a bundle, survives whatever happens to the process.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from crds.errors import EdgeError, InvalidField, Retryable
from crds.kube.queue import backoff
from spire.domain import authority as domain
from spire.domain.authority import LIVES_OF_SVIDS, Succession, X509Authority
from spire.domain.bundle import Bundle
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.issuer import metrics
from spire.issuer.store import Changed, Store
from spire.observers import Observers

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 60.0
"""How often the store is looked at although nothing is due: another issuer may have written."""
ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """An SVID for a key that somebody else holds.

    Attributes:
        chain: DER, leaf first, the root left out.
        expires: end of its validity.
    """

    chain: tuple[bytes, ...]
    expires: datetime


class Authority(Protocol):
    """Signs for one trust domain, and knows the roots of those that it is federated with."""

    @property
    def trust_domain(self) -> TrustDomain:
        """Whose IDs it signs."""

    @property
    def bundle(self) -> Bundle:
        """Its own, as others fetch it."""

    @property
    def bundles(self) -> Mapping[TrustDomain, tuple[bytes, ...]]:
        """Roots in DER by trust domain, its own among them: never changed in place."""

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back when `bundles` is another; returns the way to stop it."""

    async def issue(self, spiffe_id: SpiffeId, *, csr: bytes, common_name: str, ttl: timedelta) -> Issued:
        """Sign an SVID.

        Args:
            spiffe_id: in `trust_domain`, with a path.
            csr: PKCS#10 in DER. Its signature is checked, and of its content only the key counts.
            common_name: of the subject, 1 to 64 characters.
            ttl: wanted; it may get less.

        Raises:
            Malformed: the request is none, or for a key that gets no SVID.
            Untrusted: whoever asks does not hold the key.
            Retryable: the authority is away.
        """

    async def run(self) -> None:
        """Look after the authority until cancelled."""


class EmbeddedAuthority:
    """An authority of our own. Made by `open`.

    Attributes:
        lifetime: of authorities that are made from now on.
        refresh_hint: how often others shall fetch the bundle.
    """

    def __init__(
        self,
        store: Store,
        succession: Succession,
        *,
        lifetime: timedelta,
        refresh_hint: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._succession = succession
        self._clock = clock
        self._federated: Mapping[TrustDomain, tuple[bytes, ...]] = {}
        self._bundles: Mapping[TrustDomain, tuple[bytes, ...]] = {}
        self._observers: Observers[[]] = Observers()
        self.lifetime = lifetime
        self.refresh_hint = refresh_hint

    @classmethod
    async def open(
        cls,
        store: Store,
        *,
        trust_domain: TrustDomain,
        lifetime: timedelta,
        refresh_hint: timedelta = timedelta(minutes=5),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> EmbeddedAuthority:
        """The authority that the store holds; a new one where it holds none.

        Args:
            store: where its keys are.
            trust_domain: whose it is.
            lifetime: of authorities that are made from now on; SVIDs get 1/6 of it at most.
            refresh_hint: how often others shall fetch the bundle.
            clock: the time.

        Raises:
            InvalidField: the store holds something else, or the authority of another trust domain.
            EdgeError: the store cannot be read or written.
        """
        nobody = Succession(trust_domain=trust_domain)
        opened = cls(store, nobody, lifetime=lifetime, refresh_hint=refresh_hint, clock=clock)
        await opened.look()
        return opened

    @property
    def trust_domain(self) -> TrustDomain:
        """See `Authority`."""
        return self._succession.trust_domain

    @property
    def bundle(self) -> Bundle:
        """See `Authority`."""
        known = self._succession
        return Bundle(
            trust_domain=known.trust_domain,
            roots=known.roots,
            sequence=known.sequence,
            refresh_hint=self.refresh_hint,
        )

    @property
    def bundles(self) -> Mapping[TrustDomain, tuple[bytes, ...]]:
        """See `Authority`."""
        return self._bundles

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `Authority`."""
        return self._observers.add(callback)

    def learn(self, federated: Mapping[TrustDomain, tuple[bytes, ...]]) -> None:
        """Know these trust domains from now on, and no others."""
        self._federated = federated
        self._tell()

    async def issue(self, spiffe_id: SpiffeId, *, csr: bytes, common_name: str, ttl: timedelta) -> Issued:
        """See `Authority`."""
        if spiffe_id.trust_domain != self.trust_domain or not spiffe_id.path:
            raise InvalidField(field="spiffeID", value=str(spiffe_id), expected=f"an ID in {self.trust_domain}")
        with metrics.ISSUE_SECONDS.time():
            now = self._clock()
            signer = self._succession.signer(now)
            if signer.ends <= now:
                raise Retryable(f"the authority ended at {signer.ends} and its successor cannot be saved", after=5.0)
            leaf = domain.sign_svid(
                signer,
                spiffe_id=spiffe_id,
                key=domain.key_of_csr(csr),
                common_name=common_name,
                now=now,
                ttl=min(ttl, (signer.ends - signer.begins) / LIVES_OF_SVIDS),
                serial=x509.random_serial_number(),
            )
        metrics.ISSUED.labels(spiffe_id.path.split("/")[1]).inc()
        return Issued(chain=(leaf.public_bytes(Encoding.DER),), expires=leaf.not_valid_after_utc)

    async def run(self) -> None:
        """See `Authority`."""
        failures = 0
        while True:
            await asyncio.sleep(backoff(failures) if failures else self._pause())
            try:
                await self.look()
                failures = 0
            except EdgeError as error:
                failures += 1
                metrics.STORE_FAILED.inc()
                log.error("authority not looked after", error=str(error), failures=failures)

    async def look(self) -> None:
        """Do what is due now: once through store and decision, with whatever another issuer wrote meanwhile.

        Raises:
            EdgeError: nothing has changed, for the store cannot be read or written.
        """
        for _ in range(ATTEMPTS):
            stored = await self._load()
            held = self._succession
            # A store that was emptied, or put back to an older state, must not take away what others rely on.
            newest = stored if stored is not None and stored.sequence >= held.sequence else held
            advanced = domain.advance(
                newest, now=self._clock(), lifetime=self.lifetime, new_key=_new_key, serial=x509.random_serial_number
            )
            try:
                if advanced is not stored:
                    await self._store.save(domain.dump(advanced))
            except Changed:
                continue
            self._use(advanced)
            return
        raise Changed(f"the store of {self.trust_domain} changes all the time")

    async def _load(self) -> Succession | None:
        document = await self._store.load()
        return None if document is None else domain.load(document, trust_domain=self.trust_domain)

    def _use(self, succession: Succession) -> None:
        before, self._succession = self._succession, succession
        signer = succession.signer(self._clock())
        metrics.AUTHORITIES.set(len(succession.members))
        metrics.AUTHORITY_ENDS.set(signer.ends.timestamp())
        for each in succession.members:
            if each.der not in before.roots:
                log.info("authority", **_shown(each), sequence=succession.sequence)
        self._tell()

    def _tell(self) -> None:
        bundles = {**self._federated, self.trust_domain: self._succession.roots}
        if bundles != self._bundles:
            self._bundles = bundles
            self._observers.tell()

    def _pause(self) -> float:
        due = (self._succession.next_step() - self._clock()).total_seconds()
        # Late by a little: two issuers on one store do not decide at the same moment.
        return min(max(due, 0.05), LOOK_SECONDS) * random.uniform(1.0, 1.05)  # noqa: S311 - jitter, not a secret


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _shown(each: X509Authority) -> dict[str, str]:
    return {
        "serial": f"{each.certificate.serial_number:x}",
        "active_from": each.active_from.isoformat(),
        "ends": each.ends.isoformat(),
    }
