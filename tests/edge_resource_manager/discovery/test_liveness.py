"""When a device counts as lost, and when to look again."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from edge_resource_manager.domain.liveness import (
    Graces,
    NodeGone,
    NodeHealth,
    NodeNotReady,
    NodeReady,
    Report,
    outlook,
)

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
GRACES = Graces()


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def reason(node: NodeHealth, report: Report) -> tuple[str, str, float | None]:
    view = outlook(node=node, report=report, now=NOW, graces=GRACES)
    return view.online.status, view.online.reason, view.look_again


def test_a_device_that_reports_is_online_until_it_is_silent_for_too_long() -> None:
    assert reason(NodeReady(), Report("online", ago(59))) == ("True", "Reporting", 1.0)
    assert reason(NodeReady(), Report("online", ago(60))) == ("False", "DeviceSilent", None)


def test_a_device_that_never_reported_is_not_held_to_it() -> None:
    view = outlook(node=NodeReady(), report=Report(), now=NOW, graces=GRACES)
    assert (view.online.status, view.online.reason, view.available) == ("Unknown", "NoReport", True)


def test_a_device_reported_offline_is_offline_at_once() -> None:
    assert reason(NodeReady(), Report("Offline", ago(1))) == ("False", "DeviceOffline", None)


def test_a_lost_node_is_waited_for() -> None:
    fresh = Report("online", ago(1))
    assert reason(NodeNotReady(ago(29)), fresh) == ("True", "Reporting", 1.0)
    assert reason(NodeNotReady(ago(30)), fresh) == ("False", "NodeNotReady", None)
    assert reason(NodeGone(ago(10)), Report()) == ("Unknown", "NoReport", 20.0)
    assert reason(NodeGone(ago(31)), Report()) == ("False", "NodeGone", None)


moments = st.integers(-200, 200).map(ago)
nodes = st.one_of(st.just(NodeReady()), st.builds(NodeNotReady, moments), st.builds(NodeGone, moments))
reports = st.builds(
    Report, st.sampled_from(["", "online", "ok", "unknown", "unhealthy", "OFFLINE"]), st.none() | moments
)


@given(node=nodes, report=reports)
def test_nothing_changes_before_the_time_to_look_again_and_something_then(node: NodeHealth, report: Report) -> None:
    view = outlook(node=node, report=report, now=NOW, graces=GRACES)
    horizon = timedelta(seconds=1000 if view.look_again is None else view.look_again)
    before = outlook(node=node, report=report, now=NOW + horizon - timedelta(seconds=0.5), graces=GRACES)
    assert before.available == view.available
    if view.look_again is not None:
        assert view.look_again > 0
        assert not outlook(node=node, report=report, now=NOW + horizon, graces=GRACES).available
