"""Trust between a runner and a device that dials in: whose certificate we show, and whom the device proves to be."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from crds.errors import Terminal
from crds.kube.client import CONFIG_MAPS, Kube, NotFound
from crds.models.appraisal import CONFIG_MAP, KEY, AppraisalPolicy
from crds.models.fluidos import FLUIDOS_NAMESPACE
from crds.models.leafdevice import LeafDevice
from flash_controller.reasons import FlashReason, ProtocolReason
from flash_controller.runner.settings import RunnerSettings
from spire.domain import eat, nubificus
from spire.domain.appraisal import Appraisal
from spire.domain.errors import Malformed, Untrusted
from spire.domain.site import Site, mac_of, site_of
from spire.domain.ueid import Ueid

DIAL_IN = frozenset({"NubificusOTA", "FluidosOTA"})


@dataclass(frozen=True, slots=True)
class DialInTrust:
    """Of one device.

    Attributes:
        context: for the server's side of its connection.
        ueid: whom it has to prove to be; None where it has no identity: its address is all that is known.
        site: by whose roots evidence is verified.
        clock: the time.
    """

    context: ssl.SSLContext
    ueid: Ueid | None = None
    site: Site = field(default_factory=Site)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    @classmethod
    async def of(cls, kube: Kube, leaf: LeafDevice, settings: RunnerSettings) -> DialInTrust:
        """As flags, LeafDevice and the operator's appraisal policy say it; empty for devices that do not dial in.

        Raises:
            Retryable: the API server is away.
            Terminal: something is missing or wrong.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if leaf.spec.update is None or leaf.spec.update.protocol not in DIAL_IN:
            return cls(context)
        if settings.ota_certificate is None or settings.ota_key is None:
            message = "devices that dial in know a certificate: give --ota-certificate and --ota-key"
            raise Terminal(message, reason=FlashReason.NO_CERTIFICATE)
        try:
            context.load_cert_chain(settings.ota_certificate, settings.ota_key)
        except (ssl.SSLError, OSError) as error:
            raise Terminal(f"--ota-certificate: {error}", reason=FlashReason.NO_CERTIFICATE) from error
        if leaf.spec.ueid is None:
            return cls(context)
        return cls(context, Ueid(bytes.fromhex(leaf.spec.ueid)), await _site(kube))

    def judge(self, evidence: bytes, nonce: bytes) -> None:
        """Whether evidence is that of this device.

        Args:
            evidence: a certificate of the older dialect where there is no nonce, else an EAT with its chain.
            nonce: that the EAT must answer.

        Raises:
            Terminal: it is not.
        """
        if self.ueid is None:
            return
        try:
            shown = self._who(evidence, nonce)
        except (Malformed, Untrusted) as error:
            raise Terminal(f"the device's evidence: {error}", reason=ProtocolReason.INVALID_EVIDENCE) from error
        expected = str(self.ueid) if nonce else mac_of(self.ueid)
        if shown != expected:
            message = f"the device proves to be {shown}, expected {expected}"
            raise Terminal(message, reason=ProtocolReason.INVALID_EVIDENCE)

    def _who(self, evidence: bytes, nonce: bytes) -> str:
        now = self.clock()
        if not nonce:
            return nubificus.verify(evidence, roots=self.site.legacy_roots, now=now).mac
        token = eat.parse(evidence)
        appraisal = Appraisal(manufacturers=self.site.manufacturers, policy=self.site, now=now)
        appraisal.accept_chain(token.chain)
        return str(appraisal.accept_evidence(token, nonce=nonce).ueid)


async def _site(kube: Kube) -> Site:
    path = CONFIG_MAPS.path(namespace=FLUIDOS_NAMESPACE, name=CONFIG_MAP)
    try:
        config_map = await kube.request("GET", path)
    except NotFound as error:
        raise Terminal(f"ConfigMap {CONFIG_MAP}: {error}", reason=FlashReason.NOT_FOUND) from error
    return site_of(AppraisalPolicy.parse_yaml((config_map.get("data") or {}).get(KEY, ""), field=KEY))
