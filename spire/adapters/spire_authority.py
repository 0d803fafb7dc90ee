"""An `Authority` that lets a SPIRE server sign: for sites that have one.

SPIRE keeps of a CSR its subject and its URI SAN, so here the CSR must ask for the very ID that the caller is to get;
the subject is the composer's, which also refuses every key that no evidence named.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

import structlog
from cryptography import x509

from crds.errors import EdgeError, Terminal
from spire.adapters.spire_server import SpireServer
from spire.domain import keys
from spire.domain.bundle import Bundle
from spire.domain.errors import Malformed
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.domain.ueid import Ueid
from spire.issuer.authority import Issued
from spire.observers import Observers
from spire.plugins.bindings import Bindings

log = structlog.get_logger(__name__)

BUNDLE_SECONDS: Final = 10.0


class SpireAuthority:
    """See `spire.issuer.authority.Authority`.

    Args:
        server: of the trust domain.
        trust_domain: its name.
        bundles: as the server told them last, its own first.
        bindings: shared with the composer; None where there is none.
    """

    def __init__(
        self,
        server: SpireServer,
        *,
        trust_domain: TrustDomain,
        bundles: Mapping[TrustDomain, Bundle],
        bindings: Bindings | None,
    ) -> None:
        self._trust_domain = trust_domain
        self._server = server
        self._bindings = bindings
        self._observers: Observers[[]] = Observers()
        self._known = bundles
        self._bundles = _roots(bundles)

    @classmethod
    async def of(cls, server: SpireServer, *, trust_domain: TrustDomain, bindings: Bindings | None) -> SpireAuthority:
        """The authority of a server that answers.

        Raises:
            Terminal: it is of another trust domain, or refuses.
            Retryable: it does not answer.
        """
        bundles = await server.bundles()
        if trust_domain not in bundles:
            raise Terminal(f"this SPIRE server is not of trust domain {trust_domain}", reason="WrongTrustDomain")
        return cls(server, trust_domain=trust_domain, bundles=bundles, bindings=bindings)

    @property
    def trust_domain(self) -> TrustDomain:
        """See `Authority`."""
        return self._trust_domain

    @property
    def bundle(self) -> Bundle:
        """See `Authority`."""
        return self._known[self._trust_domain]

    @property
    def bundles(self) -> Mapping[TrustDomain, tuple[bytes, ...]]:
        """See `Authority`."""
        return self._bundles

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `Authority`."""
        return self._observers.add(callback)

    async def issue(self, spiffe_id: SpiffeId, *, csr: bytes, common_name: str, ttl: timedelta) -> Issued:
        """See `Authority`.

        Raises:
            Malformed: the CSR does not ask for this ID.
            Terminal: SPIRE, or our composer, refuses.
            Retryable: SPIRE does not answer, or the binding cannot be written.
        """
        request = _asking_for(csr, spiffe_id)
        if self._bindings is not None and spiffe_id.path.startswith("/device/"):
            key = keys.supported(request.public_key())
            self._bindings.bind(spiffe_id, key=key, ueid=Ueid(bytes.fromhex(common_name)))
        return await self._server.mint(csr, ttl=ttl)

    async def run(self) -> None:
        """Keep the bundles as the server has them, until cancelled."""
        while True:
            await asyncio.sleep(BUNDLE_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            try:
                self._learn(await self._server.bundles())
            except EdgeError as error:
                log.warning("bundles not read, the earlier ones count", error=str(error))

    def _learn(self, bundles: Mapping[TrustDomain, Bundle]) -> None:
        if self._trust_domain not in bundles:
            raise Terminal(f"SPIRE knows no bundle of {self._trust_domain} any more", reason="WrongTrustDomain")
        roots = _roots(bundles)
        self._known = bundles
        if roots != self._bundles:
            self._bundles = roots
            self._observers.tell()


def _roots(bundles: Mapping[TrustDomain, Bundle]) -> dict[TrustDomain, tuple[bytes, ...]]:
    return {domain: bundle.roots for domain, bundle in bundles.items()}


def _asking_for(csr: bytes, spiffe_id: SpiffeId) -> x509.CertificateSigningRequest:
    try:
        request = x509.load_der_x509_csr(csr)
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        asked = [name.value for name in names]
    except (ValueError, x509.ExtensionNotFound):
        asked = []
    if asked != [str(spiffe_id)]:
        raise Malformed(field="csr.subjectAltName", value=asked, expected=f"{spiffe_id} and nothing else")
    return request
