"""What KubeEdge's router is told, and when it is told anew."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.conditions import timestamp
from crds.models.base import ObjectMeta, OwnerReference
from crds.models.dataroute import DataRoute
from crds.models.kubeedge_rules import Rule, RuleEndpoint
from router_manager.domain.kubeedge import (
    RECONNECT,
    Observed,
    Plan,
    Subscription,
    Wish,
    doors,
    objects,
    plan,
    subscription_of,
    verdict,
    wishes,
)
from router_manager.reasons import Reason

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
EARLIER = NOW - timedelta(hours=1)
INLET = "https://10.0.0.5:9444"
OWNER = OwnerReference(api_version="edge.fluidos.eu/v1alpha1", kind="LeafDevice", name="leaf", uid="u-1")
TEMPERATURE = Subscription("edge-1", "stwin/temperature")
TOKEN = "secret"
WISH = Wish(owner=OWNER, silent=False)
READY = {"edge-1": EARLIER}


def made(
    subscription: Subscription = TEMPERATURE, *, token: str = TOKEN, at: datetime = NOW, inlet: str = INLET
) -> tuple[RuleEndpoint, RuleEndpoint, Rule]:
    def stored(meta: ObjectMeta) -> dict[str, Any]:
        return {"metadata": meta.model_copy(update={"creation_timestamp": timestamp(at), "uid": meta.name})}

    source, target, rule = objects(subscription, namespace="ns", owner=OWNER, inlet=inlet, token=token)
    return (
        source.model_copy(update=stored(source.metadata)),
        target.model_copy(update=stored(target.metadata)),
        rule.model_copy(update=stored(rule.metadata)),
    )


def seen(
    *triples: tuple[RuleEndpoint, RuleEndpoint, Rule],
    ready: Mapping[str, datetime] = READY,
    others: tuple[Rule, ...] = (),
) -> Observed:
    return Observed(
        rules=[*(rule for *_, rule in triples), *others],
        endpoints=[end for source, target, _ in triples for end in (source, target)],
        ready_since=ready,
    )


def decided(observed: Observed, wish: Wish | None = WISH, *, now: datetime = NOW) -> Plan:
    return plan({} if wish is None else {TEMPERATURE: wish}, observed, inlet=INLET, now=now)


def names(found: Plan) -> list[str]:
    return [each.metadata.name for each in found.delete]


def by_hand(topic: str) -> Rule:
    return Rule.parse(
        {
            "metadata": {"name": "by-hand", "namespace": "ns"},
            "spec": {
                "source": "a",
                "sourceResource": {"topic": topic, "node_name": "edge-1"},
                "target": "b",
                "targetResource": {"resource": "http://10.0.0.9/"},
            },
        }
    )


@pytest.mark.parametrize(
    ("topic", "found"),
    [
        ("ns/stwin/temperature", TEMPERATURE),
        ("other/stwin/temperature", None),
        ("nsx/stwin", None),
        ("ns", None),
        ("ns/", None),
        ("ns/" + "t" * 505, None),
        ("ns/sensor//hts221", None),
        ("ns/../other", None),
        ("ns/sensor/", None),
    ],
)
def test_the_router_carries_topics_below_the_namespace_alone(topic: str, found: Subscription | None) -> None:
    assert subscription_of(topic, node="edge-1", namespace="ns") == found


def test_ends_come_before_the_rule_and_all_have_owner_and_labels_from_the_start() -> None:
    source, target, rule = made()
    assert (source.spec.rule_endpoint_type, target.spec.rule_endpoint_type) == ("eventbus", "rest")
    assert (rule.spec.source, rule.spec.target) == (source.metadata.name, target.metadata.name)
    assert rule.spec.source_resource == {"topic": "stwin/temperature", "node_name": "edge-1"}
    assert rule.spec.target_resource == {"resource": f"{INLET}/secret"}
    assert all(each.metadata.owner_references == (OWNER,) and each.metadata.labels for each in (source, target, rule))
    assert "secret" not in rule.metadata.name


def test_what_is_wanted_is_made_once_and_what_nobody_wants_goes_rule_first() -> None:
    assert decided(seen()).create == ((TEMPERATURE, OWNER),)
    there = seen(made())
    assert decided(there) == Plan(delete=(), create=(), outcomes={TEMPERATURE: None}, look_again=None)
    source, target, rule = made()
    gone = decided(there, None)
    assert (names(gone), gone.create) == ([each.metadata.name for each in (rule, source, target)], ())


def test_nothing_is_changed_but_deleted_and_made_anew() -> None:
    moved = seen(made(inlet="https://10.0.0.6:9444"))
    twice = seen(made(), made(token="other"))
    source, _, rule = made()
    half = Observed(rules=[rule], endpoints=[source], ready_since=READY)
    for observed in (moved, twice, half):
        found = decided(observed)
        assert len(found.delete) == len(observed.rules) + len(observed.endpoints)
        assert found.create == ((TEMPERATURE, OWNER),)
    other = decided(seen(made()), Wish(owner=OWNER.model_copy(update={"uid": "u-2"}), silent=False))
    assert len(other.delete) == 3
    assert other.create


def test_a_node_that_is_away_is_not_told_anything() -> None:
    found = decided(seen(ready={}))
    assert found.create == ()
    problem = found.outcomes[TEMPERATURE]
    assert problem is not None
    assert problem.reason is Reason.NODE_NOT_READY
    assert decided(seen(made(), ready={})).delete == ()


def test_a_topic_that_somebody_elses_rule_has_is_left_to_it() -> None:
    found = decided(seen(others=(by_hand("stwin/temperature"),)))
    assert (found.create, found.delete) == ((), ())
    assert verdict([TEMPERATURE], found.outcomes).reason == Reason.TOPIC_TAKEN
    assert decided(seen(others=(by_hand("other"),))).create


def test_a_rule_that_fell_silent_over_a_reconnect_is_made_anew_once() -> None:
    silent = Wish(owner=OWNER, silent=True)
    old = made(at=NOW - timedelta(hours=2))
    back = seen(old, ready={"edge-1": NOW})
    assert decided(back, silent).look_again == RECONNECT
    assert decided(back, silent).delete == ()
    later = NOW + RECONNECT
    assert len(decided(back, silent, now=later).delete) == 3
    assert decided(back, silent, now=later).create
    assert decided(back, WISH, now=later).delete == ()
    assert decided(seen(made(at=later), ready={"edge-1": NOW}), silent, now=later + timedelta(days=1)).delete == ()


def test_doors_are_those_of_our_rules_and_tell_no_token() -> None:
    found = doors([made()[2], by_hand("stwin/temperature")])
    assert list(found.values()) == ["edge-1/ns/stwin/temperature"]
    assert "secret" not in next(iter(found))


def route(*flavors: str, relays: list[dict[str, Any]] | None = None, **spec: Any) -> DataRoute:
    sources = [
        {"flavor": flavor, "device": "leaf", "sensor": "s", "node": "edge-1", "topic": "ns/stwin/temperature"}
        for flavor in flavors
    ]
    return DataRoute.parse(
        {
            "metadata": {"name": "r", "namespace": "ns"},
            "spec": {
                "source": {"flavors": list(flavors)},
                "targets": [{"name": "t", "url": "http://192.0.2.1/"}],
                "engine": "KubeEdge",
                "delivery": "BestEffort",
                **spec,
            },
            "status": {"sources": sources, "relays": relays or []},
        }
    )


def test_routes_share_a_subscription_and_it_is_silent_when_all_say_so() -> None:
    owners = {"f1": OWNER}
    hears = route("f1", relays=[{"node": "cloud-1"}])
    deaf = route("f1", relays=[{"node": "cloud-1", "silent": ["f1"]}])
    assert wishes([hears, deaf], namespace="ns", owners=owners) == {TEMPERATURE: Wish(owner=OWNER, silent=False)}
    assert wishes([deaf, route("f1")], namespace="ns", owners=owners) == {TEMPERATURE: Wish(owner=OWNER, silent=True)}
    assert wishes([route("f1", engine="Relay")], namespace="ns", owners=owners) == {}


def test_a_route_is_forwarded_when_all_its_topics_are() -> None:
    assert verdict([TEMPERATURE], {}).status == "Unknown"
    assert verdict([TEMPERATURE], {TEMPERATURE: None}).status == "True"


SUBSCRIPTIONS = st.builds(Subscription, st.sampled_from(["edge-1", "edge-2"]), st.sampled_from(["a", "b", "c"]))
TOKENS = st.sampled_from(["one", "two"])


@given(
    wanted=st.sets(SUBSCRIPTIONS),
    there=st.sets(st.tuples(SUBSCRIPTIONS, TOKENS)),
    cut=st.sets(st.integers(0, 11)),
    silent=st.booleans(),
)
def test_from_whatever_is_there_one_rule_for_each_wish_is_reached_and_kept(
    wanted: set[Subscription], there: set[tuple[Subscription, str]], cut: set[int], silent: bool
) -> None:
    ready = {"edge-1": EARLIER, "edge-2": EARLIER}
    wish = dict.fromkeys(wanted, Wish(owner=OWNER, silent=silent))
    triples = [made(subscription, token=token, at=EARLIER - timedelta(hours=1)) for subscription, token in there]
    rules = {rule.metadata.name: rule for *_, rule in triples}
    ends = {end.metadata.name: end for source, target, _ in triples for end in (source, target)}
    for name in [name for number, name in enumerate(sorted(ends)) if number in cut]:
        del ends[name]
    for round_ in range(2):
        observed = Observed(rules=list(rules.values()), endpoints=list(ends.values()), ready_since=ready)
        found = plan(wish, observed, inlet=INLET, now=NOW)
        for each in found.delete:
            (rules if isinstance(each, Rule) else ends).pop(each.metadata.name)
        for subscription, _ in found.create:
            source, target, rule = made(subscription, token=f"new-{round_}")
            rules[rule.metadata.name] = rule
            ends |= {source.metadata.name: source, target.metadata.name: target}
    assert (found.delete, found.create) == ((), ())
    assert sorted((r.spec.source_resource["node_name"], r.spec.source_resource["topic"]) for r in rules.values()) == (
        sorted(wanted)
    )
    assert len(ends) == 2 * len(rules)
