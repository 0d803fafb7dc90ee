"""Contracts to DataRoutes, DataRoutes to what the relays carry out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog

from crds.columns import summary
from crds.conditions import stamp
from crds.egress import EgressPolicy
from crds.errors import InvalidField
from crds.kube.client import JSON_PATCH, AlreadyExists, Kind, Kube, NotFound, Object
from crds.kube.events import emit
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.queue import WorkQueue
from crds.kube.watch import Change, Gone, Key, Put
from crds.models.dataroute import DataRoute, DataRouteStatus, Engine, ResolvedSource
from crds.models.fluidos import Contract, Flavor
from crds.models.leafdevice import LeafDevice
from crds.models.retention import Retention
from router_manager.catalog import Catalog, Names
from router_manager.domain.measuring import delivering, together
from router_manager.domain.routes import NotRouted, concerns, drained, forwarded, resolve, route_of
from router_manager.kubeedge.bridge import Bridge
from router_manager.reasons import Reason

log = structlog.get_logger(__name__)

SPEC_MANAGER = "router-manager"
STATUS_MANAGER = "router-manager-status"


class Routing:
    """Stores of what was seen, and two queues: contracts and routes."""

    def __init__(
        self,
        kube: Kube,
        *,
        policy: EgressPolicy,
        clock: Callable[[], datetime],
        insecure: bool = False,
        inlet: str | None = None,
        best_effort: Engine = "Relay",
        patience: Retention | None = None,
    ) -> None:
        """Prepare.

        Args:
            kube: the API server.
            policy: where targets may be.
            clock: the time.
            insecure: nobody proves who he is.
            inlet: URL that KubeEdge's router can post to; None where it is not used.
            best_effort: engine of contracts that ask for no more than that.
            patience: how long readings wait for buyers' endpoints at most; None is for ever.
        """
        self._kube = kube
        self._policy = policy
        self._insecure = insecure
        self._clock = clock
        self._best_effort = best_effort
        self._patience = patience
        self._contracts: dict[Key, Contract] = {}
        self._routes: dict[Key, DataRoute] = {}
        self._catalog = Catalog()
        self._told: dict[Key, str] = {}
        self.contracts = WorkQueue("contracts", self.reconcile_contract)
        self.routes = WorkQueue("routes", self.reconcile_route)
        self.bridge: Bridge | None = None
        if inlet is not None:
            self.bridge = Bridge(
                kube, inlet=inlet, routes=self._of, owners=self._catalog.owners, look=self.routes.add, clock=clock
            )

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
        self._look_at_readers(change.key[0], self._catalog.flavor_seen(change))

    def leaf_seen(self, change: Change) -> None:
        """A LeafDevice appeared, changed or went: the same."""
        self._look_at_readers(change.key[0], self._catalog.leaf_seen(change))

    def route_seen(self, change: Change) -> None:
        """A DataRoute appeared, changed or went. What was done by hand to one of a contract is undone."""
        match change:
            case Put(key, obj):
                try:
                    route = DataRoute.parse(obj)
                except InvalidField as error:
                    REFUSED_OBJECTS.labels("DataRoute").inc()
                    log.warning("route not readable", route="/".join(key), error=str(error))
                    return
                before = self._routes.get(key)
                self._routes[key] = route
                self.routes.add(key)
                if before is None or before.spec != route.spec:
                    self.contracts.add(key)
            case Gone(key):
                self._routes.pop(key, None)
                self.contracts.add(key)
                self._forward(key[0])

    async def reconcile_contract(self, key: Key) -> float | None:
        """The contract's route exists as the contract says."""
        contract = self._contracts.get(key)
        current = self._routes.get(key)
        owned = current is not None and any(owner.kind == "Contract" for owner in current.metadata.owner_references)
        if contract is None or contract.metadata.deletion_timestamp:
            # Garbage collection would do it too; a buyer who ended a contract expects the data to stop now.
            if current is not None and owned:
                await self._delete_orphan(key, current)
            return None
        wanted = route_of(contract, insecure=self._insecure, best_effort=self._best_effort, patience=self._patience)
        match wanted:
            case NotRouted(why):
                if current is not None and owned:
                    await self._delete(key, current)
                await self._tell(key, contract, why)
            case DataRoute():
                await self._ensure(key, current, wanted)
        return None

    async def reconcile_route(self, key: Key) -> float | None:
        """The route's status says what it reads and whether it can work."""
        route = self._routes.get(key)
        if route is None or route.metadata.deletion_timestamp:
            return None
        before = route.status or DataRouteStatus()
        for source in before.sources:
            await self._confirm(key[0], source)
        resolution = resolve(
            route,
            flavors=self._catalog.of(key[0]),
            policy=self._policy,
            insecure=self._insecure,
            forwards=self.bridge is not None,
        )
        if self.bridge is not None and route.spec.engine == "KubeEdge" and resolution.sources:
            resolution = forwarded(resolution, self.bridge.verdict(resolution.sources, namespace=key[0]))
        resolution = drained(resolution, self._catalog.flashed(key[0]))
        status = DataRouteStatus(
            observed_generation=route.metadata.generation,
            conditions=stamp(
                (*resolution.verdicts, *delivering(before.relays)),
                before=before.conditions,
                generation=route.metadata.generation,
                now=self._clock(),
            ),
            source_models=summary(one.model for one in resolution.sources),
            target_names=summary(target.name for target in route.spec.targets),
            **dict(together(before.relays)),
            sources=resolution.sources,
            relays=before.relays,
        )
        if status == before:
            self._forward(key[0])
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
        self._forward(key[0])
        return None

    def _of(self, namespace: str) -> list[DataRoute]:
        return [route for key, route in self._routes.items() if key[0] == namespace]

    def _forward(self, namespace: str) -> None:
        if self.bridge is not None:
            self.bridge.namespaces.add(namespace)

    async def _confirm(self, namespace: str, source: ResolvedSource) -> None:
        """Look for a flavor that a route reads and the catalog has not, unless that has seen it go.

        The relay forgets how far a route came with a source that the route loses.
        """
        catalog = self._catalog
        if catalog.is_sure_of(source, namespace=namespace):
            return
        for crd, name, seen in (
            (Flavor.crd, source.flavor, catalog.flavor_seen),
            (LeafDevice.crd, source.device, catalog.leaf_seen),
        ):
            if source.flavor in catalog.of(namespace):
                return
            try:
                obj = await self._kube.request("GET", Kind.of(crd).path(namespace=namespace, name=name))
            except NotFound:
                continue
            seen(Put((namespace, name), obj))

    def _look_at_readers(self, namespace: str, flavors: Names) -> None:
        if flavors:
            for key, route in self._routes.items():
                if key[0] == namespace and concerns(route, flavors):
                    self.routes.add(key)

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
                answer = await self._replace(key, wanted)
        except AlreadyExists:
            answer = await self._replace(key, wanted)
        self._routes[key] = DataRoute.parse(answer)
        self.routes.add(key)
        log.info("route applied", route="/".join(key))

    async def _replace(self, key: Key, wanted: DataRoute) -> Object:
        """The whole specification: server-side apply would leave a target there that somebody added by hand."""
        manifest = wanted.manifest()
        patch = [
            {"op": "add", "path": "/metadata/ownerReferences", "value": manifest["metadata"]["ownerReferences"]},
            {"op": "add", "path": "/spec", "value": manifest["spec"]},
        ]
        path = Kind.of(DataRoute.crd).path(namespace=key[0], name=key[1])
        return await self._kube.request(
            "PATCH", path, query={"fieldManager": SPEC_MANAGER}, body=patch, content_type=JSON_PATCH
        )

    async def _delete_orphan(self, key: Key, route: DataRoute) -> None:
        if await self._kube.get(Contract, key[1], namespace=key[0]) is not None:
            return  # our store is behind
        await self._delete(key, route)

    async def _delete(self, key: Key, route: DataRoute) -> None:
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
