"""Contracts to DataRoutes, DataRoutes to what the relays carry out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime

import structlog

from crds.columns import summary
from crds.conditions import stamp
from crds.egress import EgressPolicy
from crds.errors import InvalidField
from crds.kube.client import AlreadyExists, Kube, NotFound
from crds.kube.events import emit
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.queue import WorkQueue
from crds.kube.watch import Change, Gone, Key, Put
from crds.models.dataroute import DataRoute, DataRouteStatus
from crds.models.fluidos import Contract, Flavor
from router_manager.domain.routes import NotRouted, Offered, concerns, offered, resolve, route_of
from router_manager.reasons import Reason

log = structlog.get_logger(__name__)

SPEC_MANAGER = "router-manager"
STATUS_MANAGER = "router-manager-status"


class Routing:
    """Stores of what was seen, and two queues: contracts and routes."""

    def __init__(self, kube: Kube, *, policy: EgressPolicy, clock: Callable[[], datetime]) -> None:
        self._kube = kube
        self._policy = policy
        self._clock = clock
        self._contracts: dict[Key, Contract] = {}
        self._routes: dict[Key, DataRoute] = {}
        self._flavors: dict[str, dict[str, Offered]] = defaultdict(dict)
        self._told: dict[Key, str] = {}
        self.contracts = WorkQueue("contracts", self.reconcile_contract)
        self.routes = WorkQueue("routes", self.reconcile_route)

    def contract_seen(self, change: Change) -> None:
        """A Contract appeared, changed or went; its route goes with it by its owner reference."""
        match change:
            case Put(key, obj):
                try:
                    self._contracts[key] = Contract.parse(obj)
                except InvalidField as error:
                    REFUSED_OBJECTS.labels("Contract").inc()
                    log.warning("contract not readable", contract="/".join(key), error=str(error))
                    return
                self.contracts.add(key)
            case Gone(key):
                self._contracts.pop(key, None)
                self._told.pop(key, None)
                self.contracts.add(key)

    def flavor_seen(self, change: Change) -> None:
        """A Flavor appeared, changed or went: routes that may read it are looked at again."""
        namespace, name = change.key
        known = self._flavors[namespace]
        before = known.get(name)
        match change:
            case Put(_, obj):
                try:
                    now = offered(Flavor.parse(obj))
                except InvalidField as error:
                    REFUSED_OBJECTS.labels("Flavor").inc()
                    log.warning("flavor not readable", flavor=f"{namespace}/{name}", error=str(error))
                    now = None
            case Gone(_):
                now = None
        if now == before:
            return
        if now is None:
            known.pop(name, None)
        else:
            known[name] = now
        for key, route in self._routes.items():
            if key[0] == namespace and concerns(route, name):
                self.routes.add(key)

    def route_seen(self, change: Change) -> None:
        """A DataRoute appeared, changed or went. Reports of relays change it too; those need no second look."""
        match change:
            case Put(key, obj):
                try:
                    route = DataRoute.parse(obj)
                except InvalidField as error:
                    REFUSED_OBJECTS.labels("DataRoute").inc()
                    log.warning("route not readable", route="/".join(key), error=str(error))
                    return
                self._routes[key] = route
                self.routes.add(key)
            case Gone(key):
                self._routes.pop(key, None)
                self.contracts.add(key)  # a route of a contract that was deleted by hand is made again

    async def reconcile_contract(self, key: Key) -> float | None:
        """The contract's route exists as the contract says."""
        contract = self._contracts.get(key)
        current = self._routes.get(key)
        if contract is None or contract.metadata.deletion_timestamp:
            # Garbage collection would do it too; a buyer who ended a contract expects the data to stop now.
            if current is not None and any(owner.kind == "Contract" for owner in current.metadata.owner_references):
                await self._delete_orphan(key, current)
            return None
        match route_of(contract):
            case NotRouted(why):
                await self._tell(key, contract, why)
            case DataRoute() as wanted:
                await self._ensure(key, current, wanted)
        return None

    async def reconcile_route(self, key: Key) -> float | None:
        """The route's status says what it reads and whether it can work."""
        route = self._routes.get(key)
        if route is None or route.metadata.deletion_timestamp:
            return None
        resolution = resolve(route, flavors=self._flavors[key[0]], policy=self._policy)
        before = route.status or DataRouteStatus()
        status = DataRouteStatus(
            observed_generation=route.metadata.generation,
            conditions=stamp(
                resolution.verdicts, before=before.conditions, generation=route.metadata.generation, now=self._clock()
            ),
            source_models=summary(one.model for one in resolution.sources),
            target_names=summary(target.name for target in route.spec.targets),
            delivered=sum(report.delivered for report in before.relays),
            sources=resolution.sources,
            relays=before.relays,
        )
        if status == before:
            return None
        ours = status.dump()
        del ours["relays"]  # each relay applies its own entry
        try:
            answer = await self._kube.apply_status(
                DataRoute, name=key[1], namespace=key[0], status=ours, manager=STATUS_MANAGER
            )
        except NotFound:
            return None
        self._routes[key] = DataRoute.parse(answer)
        return None

    async def _ensure(self, key: Key, current: DataRoute | None, wanted: DataRoute) -> None:
        if current is not None and (current.spec, current.metadata.owner_references) == (
            wanted.spec,
            wanted.metadata.owner_references,
        ):
            return
        try:
            if current is None:
                answer = await self._kube.create(wanted, manager=SPEC_MANAGER)
            else:
                answer = await self._kube.apply(wanted, manager=SPEC_MANAGER)
        except AlreadyExists:
            answer = await self._kube.apply(wanted, manager=SPEC_MANAGER)
        self._routes[key] = DataRoute.parse(answer)
        self.routes.add(key)
        log.info("route applied", route="/".join(key))

    async def _delete_orphan(self, key: Key, route: DataRoute) -> None:
        if await self._kube.get(Contract, key[1], namespace=key[0]) is not None:
            return  # our store is behind
        await self._kube.delete(DataRoute, key[1], namespace=key[0], uid=route.metadata.uid)
        log.info("route removed with its contract", route="/".join(key))

    async def _tell(self, key: Key, contract: Contract, why: str | None) -> None:
        """Say once why a contract is not routed."""
        if why is None or self._told.get(key) == why:
            return
        self._told[key] = why
        log.warning("contract not routed", contract="/".join(key), why=why)
        await emit(
            self._kube,
            contract,
            kind="Warning",
            reason=Reason.CONTRACT_UNUSABLE,
            action="Route",
            note=why,
            reporter="router-manager",
        )
