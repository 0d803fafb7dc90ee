"""The issuer's own identity: what it gives to others, it gives to itself first."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from crds.errors import EdgeError
from crds.kube.queue import backoff
from spire.domain.authority import workload_common_name
from spire.domain.spiffe_id import SpiffeId
from spire.domain.svid import renewal_seconds
from spire.identity import FixedIdentity, Identity, Svid
from spire.issuer.authority import Authority

log = structlog.get_logger(__name__)

SEGMENT: Final = "issuer"
LOOK_SECONDS: Final = 60.0
"""A machine that slept wakes up with an old SVID; by then its clock is looked at again."""


class OwnIdentity:
    """The SVID of the issuer, renewed at half of its life. Made by `of`.

    Attributes:
        source: for TLS.
    """

    def __init__(self, authority: Authority, svid: Svid, *, ttl: timedelta) -> None:
        self._authority = authority
        self._svid = svid
        self._ttl = ttl
        self._renew_at = _half_life(svid)
        self.source = FixedIdentity(Identity(svid=svid, bundles=authority.bundles))
        authority.on_change(self._tell)

    @classmethod
    async def of(cls, authority: Authority, *, ttl: timedelta) -> OwnIdentity:
        """An identity by this authority.

        Raises:
            EdgeError: the authority refuses, or is away.
        """
        return cls(authority, await _svid(authority, ttl=ttl), ttl=ttl)

    async def run(self) -> None:
        """Renew it in time, until cancelled."""
        failures = 0
        while True:
            left = (self._renew_at - datetime.now(UTC)).total_seconds()
            await asyncio.sleep(backoff(failures) if failures else min(max(left, 0.0), LOOK_SECONDS))
            if datetime.now(UTC) < self._renew_at:
                continue
            try:
                self._svid = await _svid(self._authority, ttl=self._ttl)
            except EdgeError as error:
                failures += 1
                log.error("own SVID not renewed", error=str(error), expires=self._svid.expires.isoformat())
            else:
                failures = 0
                self._renew_at = _half_life(self._svid)
                self._tell()

    def _tell(self) -> None:
        self.source.replace(Identity(svid=self._svid, bundles=self._authority.bundles))


async def _svid(authority: Authority, *, ttl: timedelta) -> Svid:
    spiffe_id = authority.trust_domain.spiffe_id(SEGMENT)
    key = ec.generate_private_key(ec.SECP256R1())
    issued = await authority.issue(
        spiffe_id, csr=csr_naming(key, spiffe_id), common_name=workload_common_name(spiffe_id), ttl=ttl
    )
    return Svid.parse(issued.chain, key=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def csr_naming(key: ec.EllipticCurvePrivateKey, spiffe_id: SpiffeId) -> bytes:
    """A request that names the ID as well: a SPIRE server takes it from there."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _half_life(svid: Svid) -> datetime:
    now = datetime.now(UTC)
    seconds = renewal_seconds(svid.expires, now=now, jitter=random.random())  # noqa: S311 - jitter, not a secret
    return now + timedelta(seconds=seconds)
