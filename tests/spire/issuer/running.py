"""Issuers as processes under their own account, and what their callers send."""

from __future__ import annotations

import asyncio
import ssl
import sys
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from scripts.testbed.cluster import Cluster
from scripts.testbed.processes import Child, free_port
from spire.domain.authorization import exactly
from spire.domain.bundle import roots_of_pem
from spire.domain.errors import Malformed
from spire.domain.spiffe_id import TrustDomain
from spire.tls import anonymous_client_context

REPOSITORY = Path(__file__).resolve().parent.parent.parent.parent
AUDIENCE = "fluidos-edge-issuer"
Bundles = dict[TrustDomain, tuple[bytes, ...]]


def csr_for(key: ec.EllipticCurvePrivateKey, *, name: str = "", uri: str | None = None) -> bytes:
    """A request, with wishes in it."""
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if uri is not None:
        names = [x509.UniformResourceIdentifier(uri), x509.DNSName("victim.example")]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@dataclass(frozen=True)
class Answer:
    """What an issuer said."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def chain(self) -> list[bytes]:
        """The SVID."""
        return [b64decode(each) for each in self.body["chain"]]

    @property
    def bundles(self) -> Bundles:
        """The roots that came with it."""
        return {
            TrustDomain(name): tuple(b64decode(root) for root in roots) for name, roots in self.body["bundles"].items()
        }


@dataclass
class Issuer:
    """One issuer, which can be killed and started again on the same port."""

    cluster: Cluster
    directory: Path
    trust_domain: TrustDomain
    flags: tuple[str, ...] = ()
    in_secrets: bool = False
    namespace: str = "fluidos"

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.child: Child | None = None
        self.kubeconfig: Path | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def bundle_file(self) -> Path:
        return self.directory / "bundle.pem"

    @property
    def roots(self) -> tuple[bytes, ...]:
        return roots_of_pem(self.bundle_file.read_bytes())

    def start(self) -> None:
        if self.kubeconfig is None:
            self.kubeconfig = self._account()
        command = [
            *(sys.executable, "-m", "spire.issuer", "--kubeconfig", str(self.kubeconfig)),
            *("--trust-domain", str(self.trust_domain), "--listen", f"127.0.0.1:{self.port}"),
            *("--bundle-file", str(self.bundle_file), "--namespace", self.namespace, *self.flags),
        ]
        if not self.in_secrets:
            command += ["--state-dir", str(self.directory / "state")]
        self.child = Child(name=f"issuer-{self.port}", command=command, directory=REPOSITORY, logs=self.directory)

    def _account(self) -> Path:
        # Its account has rights in its own namespace alone; elsewhere, where it disturbs nobody, it is an admin.
        if self.namespace == "fluidos":
            return self.cluster.service_account_kubeconfig("fluidos", "identity-issuer")
        return self.cluster.kubeconfig

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()

    async def answering(self, *, limit: float = 60.0) -> None:
        """Wait until it answers."""
        async with asyncio.timeout(limit):
            while True:
                assert self.child is not None
                assert self.child.exit_code is None, self.child.tail()
                try:
                    if (await self.call("GET", "/bundle")).status == 200:
                        return
                except (aiohttp.ClientError, OSError, Malformed):
                    await asyncio.sleep(0.05)

    def context(self) -> ssl.SSLContext:
        """As strict about it as a helper is."""
        bundles = {self.trust_domain: self.roots}
        return anonymous_client_context(bundles, authorize=exactly(self.trust_domain.spiffe_id("issuer")))

    @asynccontextmanager
    async def session(self, *, connections: int = 1) -> AsyncIterator[aiohttp.ClientSession]:
        """Connections to it."""
        connector = aiohttp.TCPConnector(ssl=self.context(), limit=connections)
        async with aiohttp.ClientSession(connector=connector, base_url=self.url) as session:
            yield session

    async def call(self, method: str, path: str, *, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        """One request on a connection of its own."""
        async with (
            self.session() as session,
            session.request(method, path, data=body, headers=headers) as response,
        ):
            json = response.content_type == "application/json"
            said = await response.json() if json else {"text": await response.text()}
            return Answer(response.status, said, dict(response.headers))

    async def trade(self, token: str, csr: bytes) -> Answer:
        """A token for an SVID."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/pkcs10"}
        return await self.call("POST", "/v1/workloads", body=csr, headers=headers)


@asynccontextmanager
async def issuer_on(
    cluster: Cluster,
    directory: Path,
    *flags: str,
    trust_domain: str = "a.example",
    in_secrets: bool = False,
    namespace: str = "fluidos",
) -> AsyncIterator[Issuer]:
    """An issuer that answers."""
    issuer = Issuer(
        cluster, directory, TrustDomain(trust_domain), flags=flags, in_secrets=in_secrets, namespace=namespace
    )
    try:
        issuer.start()
        await issuer.answering()
        yield issuer
    finally:
        issuer.kill()
