"""Reading whom this cluster is federated with: ConfigMap `fluidos-edge-federation`."""

from __future__ import annotations

import structlog

from crds.errors import InvalidField
from crds.kube.client import Kube
from crds.kube.config_map import FollowedConfigMap
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.watch import Change, Gone, Put
from crds.models.federation import CONFIG_MAP
from spire.domain.federation import read_peers
from spire.domain.spiffe_id import TrustDomain
from spire.issuer.federation import Federation

log = structlog.get_logger(__name__)

MAX_COMPLAINTS = 8


class Peers:
    """Tells a federation who belongs to it.

    Args:
        kube: the API server.
        federation: who is told.
        namespace: of the ConfigMap.
        own: our trust domain.
    """

    def __init__(self, kube: Kube, *, federation: Federation, namespace: str, own: TrustDomain) -> None:
        self._config_map = FollowedConfigMap(
            kube,
            name=CONFIG_MAP,
            namespace=namespace,
            reporter="identity-issuer",
            reason="PeerRefused",
            action="Federate",
        )
        self._federation = federation
        self._own = own
        self._seen = False

    async def run(self) -> None:
        """Follow the ConfigMap until cancelled. Until it was read, the federation is what it was before."""
        await self._config_map.run(self.seen, listed=self._listed)

    def seen(self, change: Change) -> None:
        """Take in the ConfigMap."""
        self._seen = True
        match change:
            case Gone():
                self._federation.configure({})
            case Put(_, obj):
                configured = read_peers(obj.get("data") or {}, own=self._own)
                self._federation.configure(configured)
                errors = [each for each in configured.values() if isinstance(each, InvalidField)]
                for error in errors:
                    REFUSED_OBJECTS.labels("FederatedTrustDomain").inc()
                    log.error("federated trust domain refused, what is known of it stays", error=str(error))
                if errors:
                    self._config_map.complain(obj, map(str, errors[:MAX_COMPLAINTS]))

    def _listed(self) -> None:
        if not self._seen:
            self._federation.configure({})
