"""What the manager of routes watches."""

from __future__ import annotations

from datetime import UTC, datetime

from crds.kube.client import Kube
from crds.kube.manager import Followed, Manager, Watched, Work
from crds.models.base import Crd
from crds.models.dataroute import DataRoute
from crds.models.fluidos import Contract, Flavor
from crds.models.kubeedge_rules import Rule, RuleEndpoint
from crds.models.leafdevice import LeafDevice
from router_manager.routing import Routing
from router_manager.settings import RouterSettings

_NODE = Crd(group="", version="v1", kind="Node", plural="nodes")


async def build(kube: Kube, settings: RouterSettings) -> Manager:
    """Kinds and queues of this manager."""
    routing = Routing(
        kube,
        policy=settings.egress,
        clock=lambda: datetime.now(UTC),
        insecure=settings.insecure,
        inlet=settings.inlet_url,
        best_effort=settings.best_effort_engine,
        patience=settings.patience,
    )
    forwarding: tuple[Followed, ...] = ()
    work: tuple[Work, ...] = (routing.contracts.run, routing.routes.run)
    if (bridge := routing.bridge) is not None:
        work = (*work, bridge.namespaces.run)
        forwarding = (
            Followed(Rule.crd, bridge.rule_seen),
            Followed(RuleEndpoint.crd, bridge.endpoint_seen),
            Followed(_NODE, bridge.node_seen),
        )
    return Manager(
        watched=(Watched(Contract.crd.group, Contract.crd.plural, routing.contract_seen),),
        followed=(
            Followed(Flavor.crd, routing.flavor_seen),
            Followed(LeafDevice.crd, routing.leaf_seen),
            Followed(DataRoute.crd, routing.route_seen),
            *forwarding,
        ),
        work=work,
    )
