"""What a Contract asks to be routed, and what a DataRoute resolves to."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from ipaddress import ip_address

from crds.conditions import Verdict
from crds.egress import EgressPolicy, host_and_port
from crds.errors import InvalidField
from crds.models.base import ObjectMeta
from crds.models.configuration import parse_configuration
from crds.models.dataroute import DataRoute, DataRouteSpec, ResolvedSource, RouteSource
from crds.models.fluidos import Contract, Flavor
from crds.models.leafdevice import LeafDevice
from crds.selector import Matched, attributes, compile_selector, device
from crds.typedata import FlavorView, sensor_from_flavor
from router_manager.reasons import Reason

CONTRACT_LABEL = "edge.fluidos.eu/contract"
BUYER_LABEL = "edge.fluidos.eu/buyer"
MAX_SOURCES = 1024


@dataclass(frozen=True, slots=True)
class NotRouted:
    """A contract from which no route is made: not about a sensor, or not readable."""

    why: str | None


def route_of(contract: Contract) -> DataRoute | NotRouted:
    """The DataRoute that carries out a contract about a sensor: same name, owned by it."""
    configuration = contract.spec.configuration
    if contract.spec.flavor.spec.flavor_type.type_identifier != "Sensor":
        return NotRouted(why=None)
    if configuration is None or configuration.type != "Sensor":
        return NotRouted(why="spec.configuration: a contract about a sensor needs one of type Sensor")
    try:
        asked = parse_configuration(configuration.data, field="spec.configuration.data")
    except InvalidField as error:
        return NotRouted(why=str(error))
    flavor = contract.spec.flavor.metadata.get("name")
    if not isinstance(flavor, str) or not flavor:
        return NotRouted(why="spec.flavor.metadata.name: the flavor that was sold has no name")
    return DataRoute(
        metadata=ObjectMeta(
            name=contract.metadata.name,
            namespace=contract.metadata.namespace,
            labels={CONTRACT_LABEL: _label(contract.metadata.name), BUYER_LABEL: _label(contract.spec.buyer.node_id)},
            annotations={"edge.fluidos.eu/claim": f"{asked.claim.namespace}/{asked.claim.name}"},
            owner_references=(contract.owner_reference(),),
        ),
        spec=DataRouteSpec(
            source=RouteSource(flavors=(flavor,)),
            targets=asked.endpoints,
            filter=asked.filter,
            delivery=asked.delivery,
        ),
    )


@dataclass(frozen=True, slots=True)
class Offered:
    """A Sensor flavor of this cluster, read once."""

    name: str
    provider: str
    device: str
    view: FlavorView


def offered(flavor: Flavor) -> Offered | None:
    """A flavor as a source, or None when it is no sensor or cannot be read."""
    if flavor.spec.flavor_type.type_identifier != "Sensor":
        return None
    try:
        view = sensor_from_flavor(flavor.spec)
    except InvalidField:
        return None
    owners = [owner.name for owner in flavor.metadata.owner_references if owner.kind == "LeafDevice"]
    return Offered(
        name=flavor.metadata.name,
        provider=flavor.spec.provider_id,
        device=owners[0] if owners else flavor.metadata.name,
        view=view,
    )


def offered_without_flavor(leaf: LeafDevice) -> list[Offered]:
    """The sensors of a device whose Flavor the API server refused; none where all were accepted."""
    if leaf.status is None or not any(
        condition.type == "FlavorPublished" and condition.status == "False" for condition in leaf.status.conditions
    ):
        return []
    flavors = {offer.sensor: offer.flavor for offer in leaf.status.offers}
    return [
        Offered(
            name=flavors[sensor.uid],
            provider="",
            device=leaf.metadata.name,
            view=FlavorView(sensor=sensor, board=leaf.spec.board, node=leaf.spec.node_name),
        )
        for sensor in leaf.spec.sensors
        if sensor.uid in flavors
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """Status of a DataRoute."""

    sources: tuple[ResolvedSource, ...]
    verdicts: tuple[Verdict, ...]


def resolve(route: DataRoute, *, flavors: Mapping[str, Offered], policy: EgressPolicy) -> Resolution:
    """Which flavors of the route's namespace it reads, and what its conditions say."""
    refused = _refusal(route, policy=policy)
    if refused is not None:
        return Resolution(sources=(), verdicts=(refused, _not_ready(Reason.NOT_ACCEPTED, refused.message)))
    accepted = Verdict(type="Accepted", status="True", reason=Reason.ACCEPTED)
    chosen, missing = _choose(route.spec.source, flavors)
    sources = tuple(_source(one) for one in sorted(chosen, key=lambda one: one.name)[:MAX_SOURCES])
    if missing:
        found = Verdict(
            type="SourcesResolved",
            status="False",
            reason=Reason.FLAVOR_MISSING,
            message=f"no such Sensor flavor in this namespace: {', '.join(missing[:10])}",
        )
    elif not sources:
        found = Verdict(
            type="SourcesResolved",
            status="False",
            reason=Reason.NO_SOURCE,
            message="no Sensor flavor of this namespace matches source.selector",
        )
    else:
        found = Verdict(
            type="SourcesResolved", status="True", reason=Reason.RESOLVED, message=f"{len(sources)} flavors"
        )
    if route.spec.suspend:
        return Resolution(sources=(), verdicts=(accepted, found, _not_ready(Reason.SUSPENDED, "spec.suspend is set")))
    if not sources:
        return Resolution(sources=(), verdicts=(accepted, found, _not_ready(Reason(found.reason), found.message)))
    return Resolution(
        sources=sources,
        verdicts=(accepted, found, Verdict(type="Ready", status="True", reason=Reason.READY, message=found.message)),
    )


def concerns(route: DataRoute, flavors: Set[str]) -> bool:
    """Whether a change of one of these flavors may change the route."""
    names = route.spec.source.flavors
    return names is None or not flavors.isdisjoint(names)


def _not_ready(reason: Reason, message: str) -> Verdict:
    return Verdict(type="Ready", status="False", reason=reason, message=message)


def _refusal(route: DataRoute, *, policy: EgressPolicy) -> Verdict | None:
    """Why the route as written cannot work. Names are resolved, and checked again, by the relay that connects."""
    selector = route.spec.source.selector
    if selector is not None:
        try:
            compile_selector(selector, field="spec.source.selector")
        except InvalidField as error:
            return Verdict(type="Accepted", status="False", reason=Reason.INVALID_SELECTOR, message=str(error))
    for target in route.spec.targets:
        try:
            host, _ = host_and_port(target.url, field=f"spec.targets[{target.name}].url")
            refused = policy.refusal(ip_address(host)) if _is_address(host) else None
        except InvalidField as error:
            refused = str(error)
        if refused:
            message = f"spec.targets[{target.name}]: {refused}"
            return Verdict(type="Accepted", status="False", reason=Reason.EGRESS_REFUSED, message=message)
    return None


def _choose(source: RouteSource, flavors: Mapping[str, Offered]) -> tuple[list[Offered], list[str]]:
    if source.flavors is not None:
        present = [flavors[name] for name in source.flavors if name in flavors]
        return present, [name for name in source.flavors if name not in flavors]
    selector = compile_selector(source.selector or "", field="spec.source.selector")
    return [one for one in flavors.values() if isinstance(selector.match(_device(one)), Matched)], []


def _device(one: Offered) -> Mapping[str, object]:
    view = one.view
    return device(attributes(sensor=view.sensor, board=view.board, node=view.node, cluster=one.provider))


def _source(one: Offered) -> ResolvedSource:
    sensor = one.view.sensor
    return ResolvedSource(
        flavor=one.name,
        device=one.device,
        sensor=sensor.uid,
        model=sensor.model,
        unit=",".join(measurement.unit for measurement in sensor.measurements)[:128],
        provider=one.provider,
        node=one.view.node,
        topic=sensor.access.topic,
    )


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _label(value: str) -> str:
    """A label value holds at most 63 characters; names longer than that keep their telling end."""
    return value[-63:].strip("-._")
