"""What was measured against what was promised: when a promise is broken, and what a claim does then."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.conditions import timestamp
from crds.models.measured import Measured
from crds.models.sensorclaim import Binding, Bound
from edge_resource_manager.domain.claims import Plan, decide
from edge_resource_manager.domain.claimstatus import verdicts
from edge_resource_manager.domain.matching import Fails, Fits, Need, judge
from edge_resource_manager.domain.promises import (
    Windows,
    has_handed_over,
    heard,
    is_broken,
    observation,
)
from edge_resource_manager.domain.query import parse_query, to_query
from tests.edge_resource_manager.claims.market import Market, binding, market
from tests.edge_resource_manager.claims.samples import NOW, candidate, spec

LIMIT = Bound(less_than=16_000)
ASKED = spec(sensor={"type": "Humidity"}, latency_microseconds={"less_than": 16_000})
WINDOWS = Windows(breach=3, seconds=10)
GOOD, BAD = Measured(delivered=9, p99_microseconds=9_000), Measured(delivered=9, p99_microseconds=48_000)
LATENCIES = st.integers(1, 10**7)


def rebinding(*, basis: str = "Declared") -> Need:
    return Need.of(ASKED.model_copy(update={"on_breach": "Rebind", "latency_basis": basis}))


def broken(flavor: str, **changed: Any) -> Binding:
    return binding(flavor, measured=BAD, breached_windows=WINDOWS.breach, **changed)


@given(st.lists(st.none() | LATENCIES, max_size=9), st.none() | LATENCIES)
def test_what_is_observed_is_what_a_route_measured_and_stays_while_that_is_near(
    p99s: list[int | None], published: int | None
) -> None:
    observed = observation(p99s, published=published)
    known = [each for each in p99s if each is not None]
    assert (observed is None) == (not p99s or (not known and published is None))
    assert observed in {*known, published} or not p99s
    assert observation(p99s, published=observed) == observed


@given(st.lists(LATENCIES, min_size=1, max_size=5), st.lists(LATENCIES, max_size=4), st.data())
def test_slow_endpoints_of_a_minority_say_nothing_of_the_sensor(
    quick: list[int], slow: list[int], data: st.DataObject
) -> None:
    slow = [10**8 + each for each in slow[: len(quick) - 1]]
    observed = observation(data.draw(st.permutations([*quick, *slow])), published=None)
    assert observed in quick


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=20))
def test_a_promise_breaks_after_so_many_bad_windows_in_succession(news: list[tuple[bool, int]]) -> None:
    held, now, heard_of, run = binding(), NOW, None, 0
    for number, (good, seconds) in enumerate(news):
        now += timedelta(seconds=seconds)
        measured = (GOOD if good else BAD).model_copy(update={"delivered": number})
        held = heard(held, measured, limit=LIMIT, windows=WINDOWS, now=now)
        if heard_of is None or (now - heard_of).total_seconds() >= WINDOWS.seconds:
            heard_of, run = now, 0 if good else run + 1
        assert is_broken(held, limit=LIMIT, windows=WINDOWS) == (run >= WINDOWS.breach)
        assert held.breached_windows <= WINDOWS.breach


def test_what_was_heard_before_is_no_window() -> None:
    held = heard(binding(), BAD, limit=LIMIT, windows=WINDOWS, now=NOW)
    later = heard(held, BAD, limit=LIMIT, windows=WINDOWS, now=NOW + timedelta(hours=1))
    assert later == held


def test_what_is_late_counts_before_it_arrives() -> None:
    stuck = Measured(delivered=9, p99_microseconds=9_000, lag_microseconds=10**6)
    assert heard(binding(), stuck, limit=LIMIT, windows=WINDOWS, now=NOW).breached_windows == 1


def test_a_limit_that_was_loosened_is_not_broken() -> None:
    assert is_broken(broken("a"), limit=LIMIT, windows=WINDOWS)
    assert not is_broken(broken("a"), limit=Bound(at_most=50_000), windows=WINDOWS)
    assert not is_broken(broken("a"), limit=None, windows=WINDOWS)


@pytest.mark.parametrize(
    ("observed", "fits"), [(None, False), (15_999, True), (16_000, False)], ids=["never observed", "below", "at"]
)
def test_a_claim_can_be_held_against_what_is_observed(observed: int | None, *, fits: bool) -> None:
    offer = candidate(latency=1)
    offer = replace(offer, view=replace(offer.view, observed_latency_microseconds=observed))
    need = rebinding(basis="Observed")
    outcome = judge(need, offer)
    assert isinstance(outcome, Fits if fits else Fails)
    (pair,) = to_query(limits=need.limits, latency_basis="Observed")
    assert parse_query([pair]).matches(offer.view) == fits
    if isinstance(outcome, Fails):
        assert str(outcome.misses[0]).startswith("observed latency ")
        # Once it is bound, what its own route measures decides.
        assert isinstance(judge(need.once_bound, offer), Fits)


def test_selectors_know_what_is_observed() -> None:
    need = Need.of(spec(selector='device.attributes["sensor.fluidos.eu"].observedLatencyMicros < 16000'))
    offer = candidate()
    quick = replace(offer, view=replace(offer.view, observed_latency_microseconds=9_000))
    assert isinstance(judge(need, quick), Fits)
    assert isinstance(judge(need, offer), Fails)


def promise(trade: Market, plan: Plan, need: Need) -> tuple[str, str, str]:
    found = [each for each in verdicts(trade.situation(1, need=need), plan) if each.type == "PromiseKept"]
    return (found[0].status, found[0].reason, found[0].message) if found else ("", "", "")


def held(*bindings: Binding, others: tuple[str, ...] = ()) -> Market:
    trade = market(*(candidate(name, provider=f"provider-{name}") for name in (*(b.flavor for b in bindings), *others)))
    trade.bindings = {each.flavor: each for each in bindings}
    trade.held = set(trade.bindings)
    return trade


def test_a_broken_promise_is_told_and_nothing_else_unless_the_claim_asks_for_more() -> None:
    need = Need.of(ASKED)
    trade = held(broken("a"), others=("b",))
    plan = trade.settle(1, need=need)
    assert [each.flavor for each in plan.kept] == ["a"]
    assert promise(trade, plan, need) == (
        "False",
        "LatencyBreached",
        "a of provider-1: measured latency 48.000 ms, asked < 16.000 ms",
    )


def test_promises_are_kept_or_not_measured_yet_and_absent_where_there_is_none() -> None:
    need = rebinding()
    trade = held(binding("a"))
    assert promise(trade, trade.settle(1, need=need), need)[:2] == ("Unknown", "NotMeasured")
    trade = held(binding("a", measured=GOOD))
    assert promise(trade, trade.settle(1, need=need), need)[:2] == ("True", "Kept")
    anything = Need.of(spec(sensor={"type": "Humidity"}))
    assert promise(trade, trade.settle(1, need=anything), anything) == ("", "", "")


def test_a_substitute_is_bought_first_and_the_old_contract_ends_when_that_delivers() -> None:
    need = rebinding()
    trade = held(broken("a"), others=("b",))
    plan = decide(trade.situation(1, need=need))
    assert ([each.flavor for each in plan.reserve], plan.release) == (["b"], ())

    plan = trade.settle(1, need=need)
    assert [each.flavor for each in plan.kept] == ["b"]
    assert [each.flavor for each in plan.leaving] == ["a"]
    assert trade.held == {"a", "b"}

    trade.bindings["b"] = trade.bindings["b"].model_copy(update={"measured": GOOD})
    plan = trade.settle(1, need=need)
    assert trade.held == {"b"}
    assert promise(trade, plan, need)[:2] == ("True", "Kept")


def test_an_old_contract_with_readings_that_wait_ends_when_it_would_have_to_be_renewed() -> None:
    new = binding("b", measured=GOOD)
    waiting = broken("a", renewal_time=timestamp(NOW + timedelta(hours=1)))
    waiting = waiting.model_copy(update={"measured": BAD.model_copy(update={"lag_microseconds": 5 * 10**6})})
    assert not has_handed_over(waiting, [new], now=NOW)
    assert has_handed_over(waiting, [new], now=NOW + timedelta(hours=1))
    assert has_handed_over(broken("a"), [new], now=NOW)
    assert not has_handed_over(broken("a"), [binding("b")], now=NOW)


def test_without_a_substitute_a_bad_flow_is_better_than_none() -> None:
    need = rebinding()
    trade = held(broken("a"))
    plan = trade.settle(1, need=need)
    assert trade.held == {"a"}
    ready = next(each for each in verdicts(trade.situation(1, need=need), plan) if each.type == "Ready")
    assert (ready.status, ready.reason) == ("False", "LatencyBreached")


def test_all_has_nothing_else_to_take() -> None:
    trade = held(broken("a"), binding("b", measured=GOOD))
    plan = trade.settle("All", need=rebinding())
    assert {each.flavor for each in plan.kept} == {"a", "b"}


@given(st.lists(st.sampled_from(["good", "bad", "new"]), min_size=1, max_size=5), st.integers(0, 4))
def test_what_delivers_never_becomes_less_and_what_is_broken_goes(kinds: list[str], others: int) -> None:
    need, count = rebinding(), len(kinds)
    measured = {"good": GOOD, "bad": BAD, "new": None}
    start = [
        binding(f"f{number}", measured=measured[kind], breached_windows=WINDOWS.breach if kind == "bad" else 0)
        for number, kind in enumerate(kinds)
    ]
    trade = held(*start, others=tuple(f"g{number}" for number in range(others)))
    floor = sum(each.measured is not None for each in start)
    for _ in range(6):
        trade.settle(count, need=need)
        assert sum(each.measured is not None for each in trade.bindings.values()) >= floor
        for flavor, each in trade.bindings.items():
            trade.bindings[flavor] = each.model_copy(update={"measured": each.measured or GOOD})
    assert len(trade.held) == count
    assert others < kinds.count("bad") or not any(each.measured == BAD for each in trade.bindings.values())
