"""What the manager of routes watches."""

from __future__ import annotations

from datetime import UTC, datetime

from crds.kube.client import Kube
from crds.kube.manager import Followed, Manager, Watched
from crds.models.dataroute import DataRoute
from crds.models.fluidos import Contract, Flavor
from crds.models.leafdevice import LeafDevice
from router_manager.routing import Routing
from router_manager.settings import RouterSettings


async def build(kube: Kube, settings: RouterSettings) -> Manager:
    """Kinds and queues of this manager."""
    routing = Routing(kube, policy=settings.egress, clock=lambda: datetime.now(UTC), insecure=settings.insecure)
    return Manager(
        watched=(Watched(Contract.crd.group, Contract.crd.plural, routing.contract_seen),),
        followed=(
            Followed(Flavor.crd, routing.flavor_seen),
            Followed(LeafDevice.crd, routing.leaf_seen),
            Followed(DataRoute.crd, routing.route_seen),
        ),
        work=(routing.contracts.run, routing.routes.run),
    )
