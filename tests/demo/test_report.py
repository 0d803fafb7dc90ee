"""The report is good only when every claim got what it asked for and nothing was lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.demo.__main__ import write
from scripts.demo.claims import asks
from scripts.demo.inventory import boards, uid
from scripts.demo.report import (
    BoundFlavor,
    ClaimOutcome,
    Halted,
    Report,
    Repurposed,
    TargetOutcome,
    judge,
    percentile,
    plot,
    target_outcome,
)
from scripts.sink.record import Arrival


def claim(*, bound: int = 1, satisfied: bool = True) -> ClaimOutcome:
    return ClaimOutcome(
        name="c",
        cluster="consumer-1",
        bound=tuple(BoundFlavor(flavor=f"f{n}", provider="provider-1") for n in range(bound)),
        seconds_to_bound=0.5,
        seconds_to_first_message=0.6,
        satisfied=satisfied,
    )


def arrivals(ids: set[str], *, copies: int = 1) -> dict[str, Arrival]:
    return {
        each: Arrival(at=0, latency_milliseconds=float(n), device="d", sensor="s", value=None, copies=copies)
        for n, each in enumerate(sorted(ids), 1)
    }


def target(owed: set[str], arrived: set[str], *, copies: int = 1) -> TargetOutcome:
    return target_outcome(name="t", claim="c", owed=owed, arrivals=arrivals(arrived, copies=copies))


def test_all_delivered_is_ok() -> None:
    assert judge([claim()], [target({"1", "2"}, {"1", "2"})], steps={}).ok


@pytest.mark.parametrize(
    ("claims", "targets"),
    [
        ([], []),
        ([claim(bound=0)], [target({"1"}, {"1"})]),
        ([claim(satisfied=False)], [target({"1"}, {"1"})]),
        ([claim()], [target({"1", "2"}, {"1"})]),
        ([claim()], [target({"1"}, {"1"}), target({"1"}, set())]),
        ([claim()], [target(set(), set())]),
        ([claim()], []),
    ],
    ids=[
        "no claim",
        "unbound",
        "bound to something else",
        "one lost",
        "one target lost",
        "nothing published",
        "no target",
    ],
)
def test_anything_less_is_not(claims: list[ClaimOutcome], targets: list[TargetOutcome]) -> None:
    assert not judge(claims, targets, steps={}).ok


def flashed(*, after: str = "visibility") -> Repurposed:
    return Repurposed(device="d", before="idle", after=after, digest=None, seconds_to_first_message=1.0)


def stopped(*, state: str = "RolledBack", untouched: int = 2) -> Halted:
    return Halted(rollout="r", device="d", state=state, reason="", message="", untouched=untouched, others=2)


@pytest.mark.parametrize(
    ("repurposed", "halted", "ok"),
    [
        (flashed(), stopped(), True),
        (flashed(), stopped(state="Failed"), True),
        (flashed(after="idle"), stopped(), False),
        (flashed(after=""), stopped(), False),
        (flashed(), stopped(state="Confirmed"), False),
        (flashed(), stopped(untouched=1), False),
    ],
    ids=[
        "as it should",
        "left where it was",
        "still what it was",
        "unproven",
        "firmware that fails",
        "one more touched",
    ],
)
def test_what_was_flashed_has_changed_and_what_fails_fails_once(
    repurposed: Repurposed, halted: Halted, ok: bool
) -> None:
    delivered = [target({"1"}, {"1"})]
    report = judge([claim()], delivered, steps={}, repurposed=[repurposed], halted=[halted])
    assert report.ok is ok
    assert report.document()["repurposed"][0]["from"] == "idle"


def test_only_what_is_owed_counts() -> None:
    outcome = target({"1", "2"}, {"2", "before the contract"}, copies=3)
    assert (outcome.published, outcome.delivered, outcome.lost, outcome.duplicates) == (2, 1, 1, 2)


def test_the_document_has_the_agreed_keys_and_nulls() -> None:
    document = judge([claim()], [target({"1"}, set())], steps={"x": 1.0}).document()
    assert document["ok"] is False
    assert document["claims"][0].keys() >= {"name", "cluster", "bound", "secondsToBound", "secondsToFirstMessage"}
    bound = {"flavor": "f0", "provider": "provider-1", "spiffeId": None, "tier": None}
    assert document["claims"][0]["bound"] == [bound]
    (only,) = document["targets"]
    assert only == {
        "name": "t",
        "claim": "c",
        "published": 1,
        "delivered": 0,
        "signed": 0,
        "duplicates": 0,
        "lost": 1,
        "p50Milliseconds": None,
        "p99Milliseconds": None,
    }
    assert Report(ok=False, error="x").document()["claims"] == []


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([1, 50, 99, 100]))
def test_a_percentile_is_one_of_the_values_that_so_many_do_not_exceed(values: list[float], percent: int) -> None:
    ordered = [round(value, 3) for value in sorted(values)]
    found = percentile(ordered, percent)
    assert found in ordered
    assert sum(value <= found for value in ordered) * 100 >= percent * len(ordered)


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(-1e6, 1e6)), min_size=1))
def test_a_plot_is_a_rectangle_with_its_extremes_at_the_side(points: list[tuple[float, float]]) -> None:
    lines = plot(points, width=40, height=5, unit="%")
    assert len(lines) == 6
    assert len({len(line) for line in lines}) == 1
    values = [value for _, value in points]
    assert lines[0].strip().startswith(f"{max(values):.1f} %")
    assert f"{min(values):.1f} %" in lines[4]


@pytest.mark.parametrize("consumers", [1, 2, 3])
def test_both_scenarios_are_asked_with_any_number_of_consumers(consumers: int) -> None:
    found = {ask.name: ask for ask in asks(consumers)}
    assert len(found["pressure-many-endpoints"].endpoints) == 3
    assert {ask.consumer for ask in found.values()} == set(range(1, consumers + 1))
    assert {"pressure-shared", "wind", "humidity-under-16ms", "humidity-under-25ms"} <= found.keys()
    assert found.keys() - {ask.name for ask in asks(consumers, insecure=True)} == {"humidity-signed"}


def test_a_faster_sensor_of_another_family_and_one_at_the_limit_do_not_satisfy() -> None:
    ask = next(ask for ask in asks(2) if ask.name == "humidity-under-16ms")
    uids = {(board.name, part.model): uid(board, part) for n in (1, 2) for board in boards(n) for part in board.parts}
    assert ask.satisfied(frozenset({uids["stwin-box-1", "hts221"]}), providers=2)
    assert not ask.satisfied(frozenset({uids["thingy-1", "hts221"]}), providers=2)
    assert not ask.satisfied(frozenset({uids["stwin-box-2", "hts221"]}), providers=2)
    assert not ask.satisfied(frozenset(), providers=2)


def test_a_report_replaces_a_file_and_is_written_into_anything_else(tmp_path: Path) -> None:
    file, pipe = tmp_path / "report.json", tmp_path / "pipe"
    file.write_text("old")
    write(file, Report(ok=True))
    assert json.loads(file.read_text())["ok"] is True
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write(pipe, Report(ok=True))
    assert json.loads(os.read(reader, 65536))["ok"] is True
    os.close(reader)
    assert pipe.is_fifo()
