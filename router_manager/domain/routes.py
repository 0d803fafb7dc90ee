"""What a Contract asks to be routed, and what a DataRoute resolves to."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from ipaddress import ip_address

from cryptography import x509

from crds.annotations import BUYER_SPIFFE_ID
from crds.conditions import Verdict
from crds.egress import EgressPolicy, host_and_port
from crds.errors import InvalidField
from crds.models.base import ObjectMeta, OwnerReference
from crds.models.configuration import parse_configuration
from crds.models.dataroute import DataRoute, DataRouteSpec, Engine, ResolvedSource, RouteSource
from crds.models.delivery import Endpoint
from crds.models.flash_report import FLASHING
from crds.models.fluidos import Contract, Flavor
from crds.models.leafdevice import LeafDevice
from crds.models.repurposing import AGREED
from crds.models.retention import Retention, bounded
from crds.predicate import compile_predicate
from crds.selector import Matched, attributes, compile_selector, device
from crds.typedata import FlavorView, sensor_from_flavor
from router_manager.domain.kubeedge import subscription_of
from router_manager.domain.shaping import compile_shape, units_of
from router_manager.reasons import Reason
from spire.domain.spiffe_id import SpiffeId

CONTRACT_LABEL = "edge.fluidos.eu/contract"
BUYER_LABEL = "edge.fluidos.eu/buyer"
MAX_SOURCES = 1024
_MAX_UNIT = 128


@dataclass(frozen=True, slots=True)
class NotRouted:
    """A contract from which no route is made: not about a sensor, of a device that is not one yet, or not readable."""

    why: str | None


def route_of(
    contract: Contract, *, insecure: bool, best_effort: Engine = "Relay", patience: Retention | None = None
) -> DataRoute | NotRouted:
    """The DataRoute that carries out a contract about a sensor: same name, owned by it.

    Its targets are endpoints of the buyer's trust domain. A buyer who proved nothing gets nothing, unless `insecure`.

    Args:
        contract: as the gateway stored it.
        insecure: nobody proves who he is.
        best_effort: engine for buyers who ask for no more than that.
        patience: readings wait no longer than that for a buyer's endpoint, whatever it asks; None is for ever.
    """
    configuration = contract.spec.configuration
    if contract.spec.flavor.spec.flavor_type.type_identifier != "Sensor" or AGREED in contract.metadata.annotations:
        return NotRouted(why=None)
    if configuration is None or configuration.type != "Sensor":
        return NotRouted(why="spec.configuration: a contract about a sensor needs one of type Sensor")
    try:
        asked = parse_configuration(configuration.data, field="spec.configuration.data")
    except InvalidField as error:
        return NotRouted(why=str(error))
    buyer = contract.metadata.annotations.get(BUYER_SPIFFE_ID)
    try:
        trust_domain = None if buyer is None else SpiffeId.parse(buyer).trust_domain.name
    except InvalidField as error:
        return NotRouted(why=f"metadata.annotations[{BUYER_SPIFFE_ID}]: {error}")
    if trust_domain is None and not insecure:
        return NotRouted(why=f"metadata.annotations[{BUYER_SPIFFE_ID}]: the buyer has not proven who it is")
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
            trust_domain=trust_domain,
            filter=asked.filter,
            engine=best_effort if asked.delivery == "BestEffort" and _forwardable(contract) else "Relay",
            delivery=asked.delivery,
            retention=bounded(asked.retention, bounds=patience),
        ),
    )


def _forwardable(contract: Contract) -> bool:
    """Whether KubeEdge's router could carry what was sold."""
    try:
        view = sensor_from_flavor(contract.spec.flavor.spec)
    except InvalidField:
        return False
    namespace = contract.metadata.namespace or "default"
    return subscription_of(view.sensor.access.topic, node=view.node, namespace=namespace) is not None


@dataclass(frozen=True, slots=True)
class Offered:
    """A Sensor flavor of this cluster, read once."""

    name: str
    provider: str
    device: str
    view: FlavorView
    owner: OwnerReference
    """Of what is made for it: its LeafDevice, or the Flavor where it has none."""


def offered(flavor: Flavor) -> Offered | None:
    """A flavor as a source, or None when it is no sensor or cannot be read."""
    if flavor.spec.flavor_type.type_identifier != "Sensor":
        return None
    try:
        view = sensor_from_flavor(flavor.spec)
    except InvalidField:
        return None
    owners = [owner for owner in flavor.metadata.owner_references if owner.kind == "LeafDevice"]
    owner = owners[0] if owners else flavor.owner_reference()
    return Offered(
        name=flavor.metadata.name,
        provider=flavor.spec.provider_id,
        device=owner.name,
        view=view,
        owner=owner,
    )


def offered_without_flavor(leaf: LeafDevice) -> list[Offered]:
    """The sensors of a device whose Flavor the API server refused; none where all were accepted, or none shall be."""
    if leaf.status is None or not any(
        (condition.type, condition.status, condition.reason) == ("FlavorPublished", "False", "FlavorRefused")
        for condition in leaf.status.conditions
    ):
        return []
    flavors = {offer.sensor: offer.flavor for offer in leaf.status.offers}
    return [
        Offered(
            name=flavors[sensor.uid],
            provider="",
            device=leaf.metadata.name,
            view=FlavorView(sensor=sensor, board=leaf.spec.board, node=leaf.spec.node_name),
            owner=leaf.owner_reference(),
        )
        for sensor in leaf.spec.sensors
        if sensor.uid in flavors
    ]


def is_flashed(leaf: LeafDevice) -> bool:
    """Whether firmware is being written into a device."""
    conditions = leaf.status.conditions if leaf.status else ()
    return any((each.type, each.status) == (FLASHING, "True") for each in conditions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """Status of a DataRoute."""

    sources: tuple[ResolvedSource, ...]
    verdicts: tuple[Verdict, ...]


def resolve(
    route: DataRoute, *, flavors: Mapping[str, Offered], policy: EgressPolicy, insecure: bool, forwards: bool = False
) -> Resolution:
    """Which flavors of the route's namespace it reads, and what its conditions say.

    Args:
        route: to look at.
        flavors: of its namespace, by name.
        policy: where targets may be.
        insecure: nobody proves who he is.
        forwards: KubeEdge's router can be asked.
    """
    if route.spec.engine == "KubeEdge" and not forwards:
        message = "spec.engine: router_manager knows no inlet that KubeEdge's router could post to (--inlet-url)"
        refused = Verdict(type="Accepted", status="False", reason=Reason.NO_INLET, message=message)
        return Resolution(sources=(), verdicts=(refused, _not_ready(Reason.NOT_ACCEPTED, message)))
    sources, verdicts = _resolve(route, flavors=flavors, policy=policy, insecure=insecure)
    if insecure:
        message = "router-manager runs with --insecure: nobody proves who he is"
        verdicts += (Verdict(type="Insecure", status="True", reason=Reason.INSECURE_MODE, message=message),)
    return Resolution(sources=sources, verdicts=verdicts)


def _resolve(
    route: DataRoute, *, flavors: Mapping[str, Offered], policy: EgressPolicy, insecure: bool
) -> tuple[tuple[ResolvedSource, ...], tuple[Verdict, ...]]:
    refused = _refusal(route, policy=policy, insecure=insecure)
    if refused is not None:
        return (), (refused, _not_ready(Reason.NOT_ACCEPTED, refused.message))
    accepted = Verdict(type="Accepted", status="True", reason=Reason.ACCEPTED, message=_open_targets(route))
    chosen, missing = _choose(route.spec.source, flavors)
    chosen.sort(key=lambda one: one.name)
    misfits = {one.name: why for one in chosen if (why := _misfit(one, route))}
    sources = tuple([_source(one) for one in chosen if one.name not in misfits][:MAX_SOURCES])
    if misfits:
        message = "; ".join(f"{name}: {why}" for name, (_, why) in list(misfits.items())[:10])
        reason, _ = next(iter(misfits.values()))
        found = Verdict(type="SourcesResolved", status="False", reason=reason, message=message)
    elif missing:
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
        return (), (accepted, found, _not_ready(Reason.SUSPENDED, "spec.suspend is set"))
    if not sources:
        return (), (accepted, found, _not_ready(Reason(found.reason), found.message))
    return sources, (accepted, found, Verdict(type="Ready", status="True", reason=Reason.READY, message=found.message))


def forwarded(resolution: Resolution, verdict: Verdict) -> Resolution:
    """With what is known of KubeEdge's router: while that does not carry the readings, the route is not ready."""
    verdicts = resolution.verdicts
    if verdict.status != "True":
        not_ready = _not_ready(Reason(verdict.reason), verdict.message)
        verdicts = tuple(not_ready if one.type == "Ready" else one for one in verdicts)
    return Resolution(sources=resolution.sources, verdicts=(*verdicts, verdict))


def drained(resolution: Resolution, flashed: Set[str]) -> Resolution:
    """With devices that are being flashed: nothing comes of them, and what came before is still delivered.

    They stay sources, so that the relay keeps how far it came with them.
    """
    silent = sorted({source.device for source in resolution.sources} & flashed)
    if not silent:
        return resolution
    not_ready = _not_ready(Reason.FLASHING, f"firmware is being written into {', '.join(silent[:10])}")
    return replace(resolution, verdicts=tuple(not_ready if one.type == "Ready" else one for one in resolution.verdicts))


def concerns(route: DataRoute, flavors: Set[str]) -> bool:
    """Whether a change of one of these flavors may change the route."""
    names = route.spec.source.flavors
    return names is None or not flavors.isdisjoint(names)


def _not_ready(reason: Reason, message: str) -> Verdict:
    return Verdict(type="Ready", status="False", reason=reason, message=message)


def _refusal(route: DataRoute, *, policy: EgressPolicy, insecure: bool) -> Verdict | None:
    """Why the route as written cannot work. Names are resolved, and checked again, by the relay that connects."""
    selector = route.spec.source.selector
    if selector is not None:
        try:
            compile_selector(selector, field="spec.source.selector")
        except InvalidField as error:
            return Verdict(type="Accepted", status="False", reason=Reason.INVALID_SELECTOR, message=str(error))
    expression = route.spec.filter and route.spec.filter.expression
    if expression:
        try:
            compile_predicate(expression, field="spec.filter.expression")
        except InvalidField as error:
            return Verdict(type="Accepted", status="False", reason=Reason.INVALID_EXPRESSION, message=str(error))
    for target in route.spec.targets:
        refused = _target_refusal(target, policy=policy, insecure=insecure)
        if refused is not None:
            reason, why = refused
            message = f"spec.targets[{target.name}]: {why}"
            return Verdict(type="Accepted", status="False", reason=reason, message=message)
    return None


def _target_refusal(target: Endpoint, *, policy: EgressPolicy, insecure: bool) -> tuple[Reason, str] | None:
    if target.kafka is not None:
        address = policy.kafka_refusal(target.kafka.bootstrap_servers)
    else:
        try:
            host, _ = host_and_port(target.location, field="url")
        except InvalidField as error:
            return Reason.EGRESS_REFUSED, str(error)
        address = policy.refusal(ip_address(host)) if _is_address(host) else None
    if address is not None:
        return Reason.EGRESS_REFUSED, address
    plain = None if insecure else policy.plain_refusal(target.location)
    if plain is not None:
        return Reason.PLAIN_HTTP, plain
    if target.ca_bundle is not None:
        try:
            x509.load_pem_x509_certificates(target.ca_bundle.encode())
        except ValueError as error:
            return Reason.INVALID_CA_BUNDLE, f"caBundle: {error}"
    return None


def _open_targets(route: DataRoute) -> str:
    """What a reader should know of targets that prove nothing."""
    names = [target.name for target in route.spec.targets if target.location.startswith(("http://", "mqtt://"))]
    return f"plain HTTP or MQTT, so nobody proves to be the target: {', '.join(names)}" if names else ""


def _choose(source: RouteSource, flavors: Mapping[str, Offered]) -> tuple[list[Offered], list[str]]:
    if source.flavors is not None:
        present = [flavors[name] for name in source.flavors if name in flavors]
        return present, [name for name in source.flavors if name not in flavors]
    selector = compile_selector(source.selector or "", field="spec.source.selector")
    return [one for one in flavors.values() if isinstance(selector.match(_device(one)), Matched)], []


def _misfit(one: Offered, route: DataRoute) -> tuple[Reason, str] | None:
    """Why the readings of a source cannot come by the route's engine, or be sent in the shape that a target wants."""
    namespace = route.metadata.namespace or "default"
    topic, node = one.view.sensor.access.topic, one.view.node
    if route.spec.engine == "KubeEdge" and subscription_of(topic, node=node, namespace=namespace) is None:
        return Reason.TOPIC_NOT_FORWARDABLE, f"KubeEdge's router knows topics {namespace}/a/b alone, not {topic}"
    for target in route.spec.targets:
        if target.shape is None:
            continue
        field = f"spec.targets[{target.name}].shape"
        if one.view.sensor.integrity == "Signed":
            return Reason.NOT_SHAPEABLE, f"{field}: its readings are signed, and what is changed cannot be verified"
        try:
            compile_shape(target.shape, units=units_of(_unit(one)), field=field)
        except InvalidField as error:
            return Reason.NOT_SHAPEABLE, str(error)
    return None


def _device(one: Offered) -> Mapping[str, object]:
    view = one.view
    found = attributes(sensor=view.sensor, board=view.board, node=view.node, cluster=one.provider, trust=view.trust)
    return device(found)


def _source(one: Offered) -> ResolvedSource:
    sensor = one.view.sensor
    return ResolvedSource(
        flavor=one.name,
        device=one.device,
        sensor=sensor.uid,
        model=sensor.model,
        unit=_unit(one),
        provider=one.provider,
        node=one.view.node,
        topic=sensor.access.topic,
        timestamp_pointer=sensor.timestamp_pointer,
    )


def _unit(one: Offered) -> str:
    """The units of all measurements; of very many the first ones, since half a symbol means something else."""
    text = ",".join(measurement.unit for measurement in one.view.sensor.measurements)
    return text if len(text) <= _MAX_UNIT else text[: _MAX_UNIT + 1].rpartition(",")[0]


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _label(value: str) -> str:
    """A label value holds at most 63 characters; names longer than that keep their telling end."""
    return value[-63:].strip("-._")
