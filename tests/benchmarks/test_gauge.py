"""What measures has to be able to fail: lost, repeated and unreadable messages are seen, and how late they are."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from benchmarks.relay_engines import FILTER
from benchmarks.relay_stage import TOPICS, Board, Stage
from scripts.testbed.processes import Child, accepts, free_port


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage


def reading(number: int, *, age_seconds: float = 0.0) -> str:
    return f'{{"id":{number},"sentAt":{time.time_ns() - int(age_seconds * 1e9)},"value":1.5}}'


def post(stage: Stage, name: str, body: str) -> None:
    connection = HTTPConnection("127.0.0.1", stage.sink_port, timeout=10)
    with closing(connection):
        connection.request("POST", f"/{name}", body)
        assert connection.getresponse().status == 200


@contextmanager
def counting(stage: Stage, broker: int) -> Iterator[tuple[Child, Board]]:
    show = free_port()
    words = ["-broker", f"127.0.0.1:{broker}", "-filter", FILTER, "-show", f"127.0.0.1:{show}"]
    with stage.gauge("count", *words) as child:
        child.wait_until(lambda: "ready" in child.tail() and accepts(show), what="its subscription", limit=20)
        yield child, Board(show)


def test_lost_and_repeated_ids_are_seen(stage: Stage) -> None:
    post(stage, "a", f"[{reading(0)},{reading(1)},{reading(70)}]")
    post(stage, "a", f"[{reading(1)},{reading(100_000)}]")
    counts = stage.board.get("a")
    assert (counts.unique, counts.duplicates, counts.strange) == (4, 1, 0)


def test_targets_are_counted_apart_and_parts_of_one_together(stage: Stage) -> None:
    post(stage, "a/1", reading(1))
    post(stage, "a/2", reading(2))
    post(stage, "b", reading(1))
    assert [stage.board.get(name).unique for name in ("a", "a/1", "b", "c")] == [2, 1, 1, 0]
    stage.board.forget("a")
    assert [stage.board.get(name).unique for name in ("a", "b")] == [0, 1]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(reading(7), id="one object"),
        pytest.param(f"{reading(7)}\n{reading(8)}\n", id="lines"),
        pytest.param(f'[{{"device": "d", "payload": {reading(7)}}}]', id="envelope"),
        pytest.param(f'{{"metrics":[{{"fields":{reading(7)},"name":"mqtt_consumer"}}]}}', id="Telegraf"),
        pytest.param('[{"id": 7, "sentAt": 5}]', id="with spaces"),
    ],
)
def test_bodies_of_every_peer_are_read(stage: Stage, body: str) -> None:
    post(stage, "a", body)
    post(stage, "a", reading(7))
    counts = stage.board.get("a")
    assert (counts.duplicates, counts.strange) == (1, 0)


@pytest.mark.parametrize("body", ["", "[]", '{"id":"seven"}', '{"id":7}', '{"id":99999999999,"sentAt":1}'])
def test_a_body_without_ids_is_strange(stage: Stage, body: str) -> None:
    post(stage, "a", body)
    counts = stage.board.get("a")
    assert (counts.unique, counts.strange) == (0, 1)


def test_latency_is_from_sending_to_arrival_and_of_the_present_window(stage: Stage) -> None:
    post(stage, "a", ",".join(reading(number, age_seconds=1000) for number in range(98)))
    post(stage, "a", ",".join(reading(number, age_seconds=2000) for number in range(98, 100)))
    counts = stage.board.get("a")
    assert counts.p50 == pytest.approx(1000e6, rel=0.02)
    assert counts.p99 == pytest.approx(2000e6, rel=0.02)
    stage.board.begin("a")
    post(stage, "a", reading(100, age_seconds=500))
    counts = stage.board.get("a")
    assert counts.p50 == counts.p99 == pytest.approx(500e6, rel=0.02)
    assert counts.unique == 101


@pytest.mark.broker
@pytest.mark.parametrize("rate", [0, 20_000])
def test_what_is_published_is_counted_at_the_broker(stage: Stage, rate: int) -> None:
    with stage.broker() as broker, counting(stage, broker.port) as (_, board):
        sent = stage.publish(broker.port, "-count", "20001", "-rate", str(rate))
        counts = board.settled(20_001, "count")
    assert sent.published == counts.unique == 20_001
    assert counts.duplicates == counts.strange == 0
    assert sent.began <= counts.first <= counts.last


@pytest.mark.broker
def test_a_publisher_that_is_stopped_says_what_it_has_sent(stage: Stage) -> None:
    with stage.broker() as broker, counting(stage, broker.port) as (_, board):
        with stage.publishing(broker.port, "-rate", "5000", "-topics", str(len(TOPICS))) as publisher:
            board.settled(100, "count")
            publisher.terminate()
            sent = stage.published(publisher, limit=60)
        assert board.settled(sent.published, "count").unique == sent.published


def test_ids_that_never_come_end_the_wait(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.relay_stage._STALLED_SECONDS", 0.1)
    post(stage, "a", reading(0))
    assert stage.board.settled(2, "a").unique == 1
