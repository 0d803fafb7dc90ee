"""The decision, carried out on a simulated market until it is settled."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.conditions import timestamp
from crds.models.sensorclaim import MAX_BINDINGS
from edge_resource_manager.domain.claims import (
    Plan,
    decide,
)
from edge_resource_manager.domain.claimstatus import no_identity, not_accepted, verdicts
from edge_resource_manager.domain.matching import Fails, Fits, closest, judge
from edge_resource_manager.reasons import ClaimReason
from tests.edge_resource_manager.claims.market import NEED, Count, Market, binding, market
from tests.edge_resource_manager.claims.samples import NOW, candidate


def conditions(trade: Market, count: Count) -> Mapping[str, tuple[str, str, str]]:
    plan = trade.settle(count)
    situation = trade.situation(count)
    near = closest((each, outcome) for each in situation.candidates if isinstance(outcome := judge(NEED, each), Fails))
    found = verdicts(situation, plan, near=near)
    return {each.type: (each.status, each.reason, each.message) for each in found}


slow = [candidate(f"slow{n}", latency=25_000 + n) for n in range(2)]


def test_the_best_is_bought_and_no_more_than_asked() -> None:
    trade = market(candidate("a", latency=15_000), candidate("b", latency=2_000), *slow)
    trade.settle(1)
    assert trade.held == {"b"}
    assert conditions(trade, 1)["Ready"] == ("True", "Ready", "1 of 1 bound")


def test_the_next_is_taken_where_one_is_sold_out() -> None:
    trade = market(candidate("a", latency=1), candidate("b", latency=8_000), sold_out={"a"})
    trade.settle(1)
    assert trade.held == {"b"}


def test_a_binding_is_kept_though_a_better_flavor_appears() -> None:
    trade = market(candidate("a", latency=15_000))
    trade.settle(1)
    trade.offers["b"] = candidate("b", latency=1)
    trade.settle(1)
    assert trade.held == {"a"}


def test_a_withdrawn_flavor_is_replaced() -> None:
    trade = market(candidate("a", latency=1), candidate("b"))
    trade.settle(1)
    del trade.offers["a"]
    trade.settle(1)
    assert set(trade.bindings) == {"b"}


def test_the_substitute_is_bought_before_what_no_longer_fits_is_let_go() -> None:
    trade = market(candidate("a", latency=1), candidate("b"))
    trade.settle(1)
    trade.offers["a"] = candidate("a", latency=16_000)
    plan = decide(trade.situation(1))
    assert [each.flavor for each in plan.reserve] == ["b"]
    assert plan.release == ()
    trade.settle(1)
    assert trade.held == {"b"}


def test_what_no_longer_fits_is_let_go_without_a_substitute_too() -> None:
    trade = market(candidate("a"))
    trade.settle(1)
    trade.offers["a"] = candidate("a", latency=16_000)
    trade.settle(1)
    assert trade.held == set()


def test_a_binding_whose_device_is_away_is_kept_until_there_is_a_substitute() -> None:
    trade = market(candidate("a"))
    trade.settle(1)
    trade.offers["a"] = candidate("a", available=False)
    assert conditions(trade, 1)["Ready"] == ("False", "FlavorUnavailable", "a is not available")
    assert trade.held == {"a"}
    trade.offers["b"] = candidate("b")
    trade.settle(1)
    assert trade.held == {"b"}


def test_a_silent_provider_keeps_its_binding_until_it_is_lost_and_is_told_when_it_answers() -> None:
    trade = market(candidate("a", latency=1), candidate("b", provider="provider-2"))
    trade.settle(1)
    trade.silent = {"provider-1": "no answer within 2 s"}
    trade.settle(1)
    assert trade.held == {"a"}
    trade.lost = {"provider-1"}
    trade.settle(1)
    assert trade.held == {"a", "b"}
    trade.silent, trade.lost = {}, set()
    trade.settle(1)
    assert len(trade.held) == 1


def test_a_contract_that_expired_while_its_provider_was_silent_is_forgotten() -> None:
    trade = market(silent={"provider-1": "gone"})
    past = timestamp(NOW - timedelta(seconds=1))
    trade.bindings = {"a": binding("a", expiration_time=past)}
    trade.settle(1)
    assert trade.bindings == {}


def test_fewer_asked_lets_the_worst_go() -> None:
    trade = market(*(candidate(f"f{n}", latency=n * 4_000) for n in range(1, 4)))
    trade.settle(3)
    trade.settle(1)
    assert trade.held == {"f1"}


def test_an_interrupted_intent_is_taken_up_before_anything_new() -> None:
    trade = market(candidate("a", latency=15_000), candidate("b", latency=1))
    trade.bindings = {"a": binding("a", contract=False)}
    assert [each.flavor for each in decide(trade.situation(1)).reserve] == ["a"]


def test_an_intent_that_is_not_wanted_any_more_is_ended_not_forgotten() -> None:
    trade = market(candidate("a", latency=99_000))
    trade.bindings = {"a": binding("a", contract=False)}
    plan = decide(trade.situation(1))
    assert [each.flavor for each, _ in plan.release] == ["a"]
    assert plan.reserve == ()


def test_an_intent_whose_provider_is_silent_waits_while_another_is_bought() -> None:
    trade = market(candidate("a"), candidate("b", provider="provider-2"), silent={"provider-1": "no answer"})
    trade.bindings = {"a": binding("a", contract=False)}
    trade.held.add("a")  # the purchase had arrived
    trade.settle(1)
    assert set(trade.bindings) == {"a", "b"}
    trade.silent = {}
    trade.settle(1)
    assert trade.held == {"b"} == set(trade.bindings)


@pytest.mark.parametrize("changed", [{"configuration_digest": "d0"}, {"renewal_time": timestamp(NOW)}])
def test_a_new_configuration_and_a_renewal_that_is_due_are_sent(changed: dict[str, Any]) -> None:
    trade = market(candidate("a"), held={"a"})
    trade.bindings = {"a": binding("a", **changed)}
    assert [each.flavor for each in decide(trade.situation(1)).configure] == ["a"]
    trade.settle(1)


def test_all_follows_what_comes_and_goes() -> None:
    trade = market(*(candidate(f"f{n}") for n in range(3)), *slow)
    trade.settle("All")
    assert trade.held == {"f0", "f1", "f2"}
    del trade.offers["f0"]
    trade.held.discard("f0")
    trade.offers["f1"] = candidate("f1", available=False)
    trade.offers["f9"] = candidate("f9")
    trade.settle("All")
    assert trade.held == {"f2", "f9"} == set(trade.bindings)


def test_all_ends_at_what_a_status_can_hold() -> None:
    trade = market(*(candidate(f"f{n}") for n in range(MAX_BINDINGS + 9)))
    trade.settle("All")
    assert len(trade.held) == MAX_BINDINGS


def test_a_claim_that_nothing_matches_names_what_came_closest_and_who_did_not_answer() -> None:
    trade = market(*slow, silent={"provider-3": "no answer within 2 s"})
    status, reason, message = conditions(trade, 1)["Bound"]
    assert (status, reason) == ("False", "NoMatch")
    assert message == (
        "0 of 1 bound; no flavor of 2 providers fits; 2 flavors came closest: "
        "slow0 of provider-1 (hts221): latency 25.000 ms, asked < 16.000 ms; "
        "slow1 of provider-1 (hts221): latency 25.001 ms, asked < 16.000 ms; "
        "provider-3 did not answer: no answer within 2 s"
    )
    assert conditions(trade, 1)["Ready"] == ("False", "NoMatch", message)


def test_a_claim_that_is_refused_says_by_whom_and_why() -> None:
    trade = market(candidate("a"), sold_out={"a"})
    assert conditions(trade, 1)["Bound"] == ("False", "Refused", "0 of 1 bound; provider-1 refused a: HTTP 409")
    trade = market(*(candidate(name) for name in "cab"), sold_out=set("abc"))
    assert conditions(trade, 1)["Bound"][2] == "0 of 1 bound; provider-1 refused a and 2 more: HTTP 409"


def test_part_of_what_was_asked_is_bound_and_said_so() -> None:
    trade = market(candidate("a"), *slow)
    status, reason, message = conditions(trade, 2)["Bound"]
    assert (status, reason) == ("False", "PartlyBound")
    assert message.startswith("1 of 2 bound; no other flavor of 3 providers fits; 2 flavors came closest")


def test_without_providers_and_with_silent_ones_only_a_claim_says_which() -> None:
    trade = market(silent={f"provider-{n}": "cannot connect" for n in range(1, 4)})
    assert conditions(trade, 1)["Bound"][1] == "ProvidersSilent"
    nobody = verdicts(replace(market().situation(1), providers=0), Plan())
    assert nobody[1].reason == ClaimReason.NO_PROVIDERS
    assert nobody[1].message == "0 of 1 bound; there is no KnownCluster to ask"


def test_all_with_a_silent_provider_is_ready_and_says_who_was_not_heard() -> None:
    trade = market(candidate("a"), silent={"provider-3": "cannot connect"})
    assert conditions(trade, "All")["Ready"] == (
        "True",
        "Ready",
        "all 1 that fit are bound; provider-3 did not answer: cannot connect",
    )


def test_a_provider_that_refuses_the_new_endpoints_makes_the_claim_unready_but_leaves_it_bound() -> None:
    trade = market(candidate("a"))
    trade.settle(1)
    situation = replace(trade.situation(1, digest="d2"), unconfigured={"a": "HTTP 403: endpoint sink: loopback"})
    plan = decide(situation)
    assert plan.settled
    found = {each.type: each for each in verdicts(situation, plan)}
    assert found["Bound"].status == "True"
    assert (found["Ready"].status, found["Ready"].reason) == ("False", "ConfigurationRefused")


def test_a_silent_provider_that_was_not_told_the_new_endpoints_makes_the_claim_unready() -> None:
    trade = market(candidate("a"))
    trade.settle(1)
    trade.silent = {"provider-1": "no answer"}
    situation = trade.situation(1, digest="d2")
    _, _, ready, *_ = verdicts(situation, decide(situation))
    assert (ready.status, ready.reason) == ("False", "ProviderSilent")
    assert ready.message == "a still delivers as before: provider-1 is silent"


def test_a_claim_that_cannot_be_asked_says_so() -> None:
    assert {each.type: each.status for each in not_accepted("no")} == dict.fromkeys(
        ("Accepted", "Bound", "Ready"), "False"
    )
    assert [each.status for each in no_identity("no")] == ["True", "False", "False"]


@st.composite
def markets(draw: st.DrawFn) -> Market:
    """Anything that a claim may find: also bindings and intents of an earlier life, wanted and not."""
    names = [f"f{n}" for n in range(8)]
    trade = Market()
    for name in draw(st.sets(st.sampled_from(names))):
        trade.offers[name] = candidate(
            name,
            provider=draw(st.sampled_from(["provider-1", "provider-2", "provider-3"])),
            latency=draw(st.sampled_from([None, 1_000, 15_999, 16_000, 30_000])),
            available=draw(st.integers(0, 4)) > 0,
        )
    trade.sold_out = draw(st.sets(st.sampled_from(names), max_size=3))
    trade.silent = dict.fromkeys(draw(st.sets(st.sampled_from(["provider-1", "provider-2"]), max_size=1)), "silent")
    trade.lost = set(trade.silent) if draw(st.booleans()) else set()
    for name in draw(st.sets(st.sampled_from(names), max_size=5)):
        offer = trade.offers.get(name)
        trade.bindings[name] = binding(
            name,
            contract=draw(st.booleans()),
            provider=offer.provider if offer else "provider-1",
            configuration_digest=draw(st.sampled_from(["d1", "d0"])),
        )
        if offer and draw(st.booleans()):
            trade.held.add(name)
    return trade


@given(markets(), st.one_of(st.integers(1, 5), st.just("All")))
def test_whatever_is_found_the_claim_settles_as_it_should(trade: Market, count: Count) -> None:
    before = set(trade.bindings)
    plan = trade.settle(count)
    spoken = {name for name in trade.bindings if trade.bindings[name].provider not in trade.silent}
    fitting = {
        name
        for name, offer in trade.offers.items()
        if offer.provider not in trade.silent and isinstance(judge(NEED, offer), Fits)
    }
    paused = {name for name in spoken - fitting if name in trade.offers and not trade.offers[name].available}
    # Nothing that fails was bought, and nothing that fails was kept but devices that may come back.
    assert spoken - before <= fitting
    assert spoken <= fitting | (paused if count != "All" else set())
    # What is held and what the status says never part, for whoever answers.
    assert {name for name in trade.held if trade.offers[name].provider not in trade.silent} <= spoken
    contracts = {name for name in spoken if trade.bindings[name].contract}
    silent = set(trade.bindings) - spoken
    obtainable = fitting - trade.sold_out | (fitting & trade.held)
    if count == "All":
        assert contracts == obtainable
    else:
        assert len(contracts) <= count
        kept_silent = len(silent) if not trade.lost else 0
        assert len(contracts) >= min(count - kept_silent, len(obtainable))
    assert all(each.configuration_digest == "d1" for each in plan.kept if each.flavor in spoken)


@given(markets(), st.one_of(st.integers(1, 5), st.just("All")))
def test_the_same_situation_gives_the_same_plan_and_conditions_can_always_be_told(trade: Market, count: Count) -> None:
    situation = trade.situation(count)
    assert decide(situation) == decide(replace(situation, candidates=tuple(reversed(situation.candidates))))
    plan = trade.settle(count)
    found = verdicts(trade.situation(count), plan)
    assert [each.type for each in found] == ["Accepted", "Bound", "Ready", *(["PromiseKept"] if plan.bound else [])]
    assert not (found[2].status == "True" and found[1].status == "False")
