"""What KubeEdge's router has to be told so that it carries readings to the relay's inlet, and when to tell it anew.

One Rule for each topic of a node, with RuleEndpoints of its own, posts to a URL that no other Rule has: the router
sends neither topic nor node nor any header of ours with a message, so the URL alone says whose it is. Rules are never
changed, since the router does not look at changes; nor does it see that a Rule was deleted and made again under its
name while its watch was down, so each one has a name of its own.
Source: kubeedge/kubeedge, cloud/pkg/router (1.23).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, NamedTuple

from crds.conditions import Verdict, parse_timestamp
from crds.models.base import ObjectMeta, OwnerReference
from crds.models.dataroute import DataRoute
from crds.models.kubeedge_rules import Rule, RuleEndpoint, RuleEndpointSpec, RuleSpec
from crds.models.leafdevice import MAX_TOPIC
from router_manager.reasons import Reason

MANAGED: Final = {"app.kubernetes.io/managed-by": "fluidos-edge-router-manager"}
RECONNECT: Final = timedelta(seconds=60)
"""edgecore tries again after two heartbeats of 15 s, and the relay calls a source silent after 30 s."""


class Subscription(NamedTuple):
    """What one Rule of a namespace is about: at the node's broker the topic is `<namespace>/<topic>`."""

    node: str
    topic: str


def subscription_of(topic: str, *, node: str, namespace: str) -> Subscription | None:
    """How a topic is asked for, or None where it cannot be.

    The router puts the Rule's namespace before each topic, and tidies it up as a path of files: it would wait for
    `a/b` where `a//b` comes.
    """
    begin, *rest = topic.split("/")
    fits = begin == namespace and rest and not {"", ".", ".."} & set(rest)
    if not fits or len(forwarded_topic(topic, node=node)) > MAX_TOPIC:
        return None
    return Subscription(node, "/".join(rest))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A subscription that routes want.

    Attributes:
        owner: of the objects: what the sensor belongs to; None while that is not known.
        silent: the relay has heard nothing of it of late.
    """

    owner: OwnerReference | None
    silent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is in a namespace, and since when nodes are ready; those that are not are not in it."""

    rules: Sequence[Rule] = ()
    endpoints: Sequence[RuleEndpoint] = ()
    ready_since: Mapping[str, datetime]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why nothing comes of a subscription."""

    reason: Reason
    message: str


Outcomes = Mapping[Subscription, Problem | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, in this order, and what is to be said.

    Attributes:
        delete: Rules before their RuleEndpoints.
        create: subscriptions with their owners.
        outcomes: by subscription; None where all is done for it.
        look_again: when something may have to be done although nothing changes.
    """

    delete: tuple[Rule | RuleEndpoint, ...]
    create: tuple[tuple[Subscription, OwnerReference], ...]
    outcomes: Outcomes
    look_again: timedelta | None


def wishes(
    routes: Iterable[DataRoute], *, namespace: str, owners: Mapping[str, OwnerReference]
) -> dict[Subscription, Wish]:
    """The subscriptions that the routes of a namespace want, by what their status says.

    Args:
        routes: of the namespace.
        namespace: its name.
        owners: by flavor.
    """
    found: dict[Subscription, Wish] = {}
    for route in routes:
        if route.spec.engine != "KubeEdge" or route.status is None or route.metadata.deletion_timestamp:
            continue
        reports = route.status.relays
        for source in route.status.sources:
            subscription = subscription_of(source.topic, node=source.node, namespace=namespace)
            if subscription is None:
                continue
            silent = all(source.flavor in report.silent for report in reports)
            earlier = found.get(subscription)
            owner = owners.get(source.flavor)
            found[subscription] = Wish(
                owner=owner if earlier is None else earlier.owner or owner,
                silent=silent and (earlier is None or earlier.silent),
            )
    return found


def plan(wanted: Mapping[Subscription, Wish], observed: Observed, *, inlet: str, now: datetime) -> Plan:
    """Bring a namespace to exactly one Rule for each subscription.

    Args:
        wanted: by routes.
        observed: in the namespace.
        inlet: URL of the relay's inlet.
        now: the time.
    """
    rules: dict[Subscription, list[Rule]] = {}
    for rule in observed.rules:
        rules.setdefault(_about(rule), []).append(rule)
    endpoints = {endpoint.metadata.name for endpoint in observed.endpoints}
    judged = {}
    for each, wish in wanted.items():
        there = rules.get(each, [])
        sound = [rule for rule in there if _stands(rule, wish, inlet=inlet, endpoints=endpoints)]
        judged[each] = _judge(each, wish, there, sound, ready=observed.ready_since.get(each.node), now=now)
    kept = [rule for one in judged.values() for rule in one.keep]
    names = {name for rule in kept for name in (rule.metadata.name, rule.spec.source, rule.spec.target)}
    made: tuple[Rule | RuleEndpoint, ...] = (*observed.rules, *observed.endpoints)
    return Plan(
        delete=tuple(each for each in made if is_ours(each.metadata) and each.metadata.name not in names),
        create=tuple((each, owner) for each, one in judged.items() if (owner := one.create_for) is not None),
        outcomes={each: one.problem for each, one in judged.items()},
        look_again=min((one.wait for one in judged.values() if one.wait is not None), default=None),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judgement:
    """What becomes of one subscription: which Rules stay, and whether one is made."""

    keep: Sequence[Rule] = ()
    create_for: OwnerReference | None = None
    problem: Problem | None = None
    wait: timedelta | None = None


def _judge(
    subscription: Subscription,
    wish: Wish,
    rules: Sequence[Rule],
    sound: Sequence[Rule],
    *,
    ready: datetime | None,
    now: datetime,
) -> _Judgement:
    """Decide about one subscription, by all Rules that are about it and those that are as they should be."""
    mine = [rule for rule in rules if is_ours(rule.metadata)]
    if len(mine) < len(rules):
        name = next(rule.metadata.name for rule in rules if not is_ours(rule.metadata))
        message = f"the Rule {name} has {subscription.topic} of {subscription.node}"
        return _Judgement(keep=mine, problem=Problem(Reason.TOPIC_TAKEN, message))
    if ready is None:
        # The node would never hear of a Rule that is made now.
        message = f"the node {subscription.node} is not ready"
        return _Judgement(keep=mine, problem=Problem(Reason.NODE_NOT_READY, message))
    if len(mine) == 1 and sound:
        wait = _until_anew(mine[0], ready=ready, now=now) if wish.silent else None
        if wait != timedelta():
            return _Judgement(keep=mine, wait=wait)
    if wish.owner is None:
        message = f"whose {subscription.topic} is, is not known yet"
        return _Judgement(keep=mine, problem=Problem(Reason.FORWARDING_PENDING, message))
    return _Judgement(create_for=wish.owner)


def objects(
    subscription: Subscription, *, namespace: str, owner: OwnerReference, inlet: str, token: str
) -> tuple[RuleEndpoint, RuleEndpoint, Rule]:
    """A Rule and its RuleEndpoints, in the order in which they are to be made: a Rule without them is dropped.

    Args:
        subscription: what the Rule is about.
        namespace: of all three.
        owner: goes, and they go with it.
        inlet: URL of the relay's inlet.
        token: nobody can guess; never used before.
    """
    name = f"fluidos-{_digest('/'.join(subscription))[:16]}-{_digest(token)[:8]}"

    def meta(name: str) -> ObjectMeta:
        return ObjectMeta(name=name, namespace=namespace, labels=dict(MANAGED), owner_references=(owner,))

    source, target = f"{name}-source", f"{name}-target"
    return (
        RuleEndpoint(metadata=meta(source), spec=RuleEndpointSpec(rule_endpoint_type="eventbus")),
        RuleEndpoint(metadata=meta(target), spec=RuleEndpointSpec(rule_endpoint_type="rest")),
        Rule(
            metadata=meta(name),
            spec=RuleSpec(
                source=source,
                source_resource={"topic": subscription.topic, "node_name": subscription.node},
                target=target,
                target_resource={"resource": f"{inlet.rstrip('/')}/{token}"},
            ),
        ),
    )


def verdict(wanted: Collection[Subscription], outcomes: Outcomes) -> Verdict:
    """What a route says of its subscriptions."""
    problems = [found for each in wanted if (found := outcomes.get(each)) is not None]
    if problems:
        message = "; ".join(dict.fromkeys(each.message for each in problems[:10]))
        return Verdict(type="Forwarded", status="False", reason=problems[0].reason, message=message)
    if not outcomes.keys() >= set(wanted):
        return Verdict(type="Forwarded", status="Unknown", reason=Reason.FORWARDING_PENDING)
    message = f"{len(wanted)} topics by KubeEdge's router"
    return Verdict(type="Forwarded", status="True", reason=Reason.FORWARDED, message=message)


def doors(rules: Iterable[Rule]) -> dict[str, str]:
    """Whose readings come at which path of the inlet: digest of the token, and `<node>/<topic as at its broker>`.

    The topic of another node's broker is another topic.
    """
    found = {}
    for rule in rules:
        subscription = _about(rule)
        token = rule.spec.target_resource.get("resource", "").rpartition("/")[2]
        if token and is_ours(rule.metadata):
            found[_digest(token)] = forwarded_topic(
                f"{rule.metadata.namespace}/{subscription.topic}", node=subscription.node
            )
    return found


def forwarded_topic(topic: str, *, node: str) -> str:
    """The name that a relay, which may serve many nodes, has for a topic of one node's broker."""
    return f"{node}/{topic}"


def is_ours(meta: ObjectMeta) -> bool:
    """Whether this manager made an object."""
    return MANAGED.items() <= meta.labels.items()


def _about(rule: Rule) -> Subscription:
    resource = rule.spec.source_resource
    return Subscription(resource.get("node_name", ""), resource.get("topic", ""))


def _stands(rule: Rule, wish: Wish, *, inlet: str, endpoints: set[str]) -> bool:
    """Whether a Rule is as one that is made now would be."""
    owners = {owner.uid for owner in rule.metadata.owner_references}
    return (
        rule.spec.target_resource.get("resource", "").rpartition("/")[0] == inlet.rstrip("/")
        and {rule.spec.source, rule.spec.target} <= endpoints
        and (wish.owner is None or wish.owner.uid in owners)
    )


def _until_anew(rule: Rule, *, ready: datetime, now: datetime) -> timedelta | None:
    """When a silent Rule is to be made anew: once, after its node came back and had the time to speak."""
    made = parse_timestamp(rule.metadata.creation_timestamp or "")
    if made is not None and made >= ready:
        return None
    return max(timedelta(), ready + RECONNECT - now)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
