"""What targets refuse is kept within bounds, shown, dropped, and sent again when people say so."""

import os
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.errors import InvalidField
from router_manager.domain.batching import BatchLimits
from router_manager.domain.payload import NOT_JSON, Record
from router_manager.domain.table import LaneKey, RouteName
from router_manager.relay.dead_letters.__main__ import main
from router_manager.relay.dead_letters.letter import Letter
from router_manager.relay.dead_letters.store import DeadLetters, key_of
from scripts.testbed.broker import Broker
from tests.relay.support import (
    Target,
    endpoint,
    numbered,
    publish_all,
    record,
    relay,
    route,
    serve,
    serving,
    status,
    until,
)

KEY = LaneKey("route-1", "target")
ROUTE = RouteName("test", "route-1")
DOWN = status(503, Retry_After="0")


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.iterdir()}


def letter(each: Record, reason: str = "HTTP 422", *, target: str = "target") -> Letter:
    return Letter(record=each, route=ROUTE, target=target, reason=reason)


@settings(max_examples=100, deadline=None)
@given(
    payload=st.one_of(
        st.binary(max_size=50),
        st.recursive(st.none() | st.floats(allow_nan=False) | st.text(), st.lists).map(orjson.dumps),
        st.sampled_from([b'{"v": 1.10,\n "payload":{",\\"payload\\":":2}}', b"", b"12345678901234567890123"]),
    ),
    topic=st.text(min_size=1),
    reason=st.text(),
)
def test_letters_are_read_as_they_were_written(payload: bytes, topic: str, reason: str) -> None:
    whole = letter(Record(7, 1_795_255_200_000_000_001, topic, payload), reason)
    line = whole.line()
    assert line.count(b"\n") == 1
    read = Letter.parse(line)
    assert (read.route, read.target, read.reason) == (ROUTE, "target", reason)
    assert (read.record.id, read.record.ingested_ns, read.record.topic) == (7, 1_795_255_200_000_000_001, topic)
    if whole.record.value is NOT_JSON:
        assert read.record.payload == payload
    else:
        assert read.record.payload == payload.replace(b"\n", b" ").replace(b"\r", b" ")


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b"1", b'{"id":1', letter(record(1)).line()[:-5] + b"}\n"])
def test_a_damaged_letter_is_told(line: bytes) -> None:
    with pytest.raises(InvalidField, match="a line that a relay wrote"):
        Letter.parse(line)


async def test_the_oldest_letters_go_when_there_is_no_more_room(tmp_path: Path) -> None:
    store = DeadLetters(tmp_path, max_bytes=80_000)
    for number in range(200):
        key = LaneKey("route-1", f"target-{number % 3}")
        await store.bury(key, [letter(record(number, b'"%s"' % (b"x" * 900)))])
    files = files_of(tmp_path)
    kept = {Letter.parse(line).record.id for data in files.values() for line in data.splitlines()}
    size = sum(map(len, files.values()))
    assert size <= 80_000
    assert store.dropped == 200 - len(kept)
    assert len(kept) > 40
    assert 199 in kept
    assert {key_of(path) for path in files} == {LaneKey("route-1", f"target-{n}") for n in range(3)}
    assert DeadLetters(tmp_path, max_bytes=80_000)._size == size


async def test_half_a_letter_spoils_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = DeadLetters(tmp_path / "dead-letters")
    await store.bury(KEY, [letter(record(1)), letter(record(2))])
    (path,) = (tmp_path / "dead-letters").iterdir()
    os.truncate(path, path.stat().st_size - 10)
    await store.bury(KEY, [letter(record(3))])
    assert main(["show", "--state-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert [orjson.loads(line)["id"] for line in shown.out.splitlines()] == [1, 3]
    assert "a line that a relay wrote" in shown.err


def command(*arguments: str, state: Path) -> None:
    assert main([*arguments, "--state-dir", str(state)]) == 0


async def test_letters_are_listed_shown_and_dropped_by_route_and_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = DeadLetters(tmp_path / "part-1" / "dead-letters")
    await store.bury(KEY, [letter(record(1)), letter(record(2)), letter(record(3), "HTTP 413")])
    await store.bury(LaneKey("route-1", "other"), [letter(record(4, b"\xff"), target="other")])
    command("list", state=tmp_path)
    listed = capsys.readouterr().out
    assert "test/route-1 target: 3 letters, 1970-01-01T00:00:00.000000001Z to" in listed
    assert "    2 x HTTP 422\n    1 x HTTP 413\n" in listed
    command("show", "--target", "other", state=tmp_path)
    assert orjson.loads(capsys.readouterr().out)["payloadBase64"] == "/w=="
    command("drop", "--route", "test/route-1", "--target", "target", state=tmp_path)
    command("drop", "--route", "test/none", state=tmp_path)
    command("list", state=tmp_path)
    assert "test/route-1 other: 1 letters" in capsys.readouterr().out.splitlines()[2]
    with pytest.raises(SystemExit):
        main(["list", "--state-dir", str(tmp_path / "nowhere")])


def nothing_left(state: Path) -> bool:
    return not (list((state / "dead-letters").iterdir()) or list((state / "replay").iterdir()))


@pytest.mark.broker
async def test_a_replay_goes_to_the_target_again_under_keys_of_its_own(tmp_path: Path, broker: Broker) -> None:
    state = tmp_path / "state"
    limits = BatchLimits(records=10)
    async with serving(Target(always=status(422))) as target, relay(state, broker.port, batch=limits) as running:
        await serve(running, route(endpoint(target)))
        await publish_all(broker.port, numbered(range(25)))
        await until(lambda: running.pumps[KEY].statistics.dead == 25)
        refused = set(target.keys)
        # The target is down in the middle of it: it goes on where it was.
        target.always = None
        target.answers += [status(200), DOWN, DOWN]
        command("replay", state=state)
        await until(lambda: nothing_left(state), what="replay")
        assert target.ids == list(range(25))
        assert running.pumps[KEY].statistics.replayed == 25
        assert refused.isdisjoint(target.keys[len(refused) :])


@pytest.mark.broker
async def test_what_is_refused_again_is_a_dead_letter_again(tmp_path: Path, broker: Broker) -> None:
    state = tmp_path / "state"
    async with serving(Target(always=status(422))) as target, relay(state, broker.port) as running:
        await serve(running, route(endpoint(target), topics=["a/b", "c"]))
        await publish_all(broker.port, [*numbered([1, 2]), *numbered([3], "c")])
        await until(lambda: running.pumps[KEY].statistics.dead == 3)
        target.always = status(400)
        await serve(running, route(endpoint(target)))
        command("replay", state=state)
        await until(lambda: running.pumps[KEY].statistics.dead == 6)
        await until(lambda: not list((state / "replay").iterdir()))
        letters = [
            orjson.loads(line) for data in files_of(state / "dead-letters").values() for line in data.splitlines()
        ]
        reasons = {each["payload"]["id"]: each["reason"] for each in letters}
        assert reasons == {1: "HTTP 400: said 400", 2: "HTTP 400: said 400", 3: "the route no longer has its source"}


@pytest.mark.broker
async def test_a_replay_waits_for_the_relay_and_for_its_route(tmp_path: Path, broker: Broker) -> None:
    state = tmp_path / "state"
    await DeadLetters(state / "dead-letters").bury(KEY, [letter(record(1, b'{"id":1}'))])
    command("replay", state=state)
    async with serving(Target()) as target, relay(state, broker.port) as running:
        await serve(running, route(endpoint(target, "another")))
        assert len(files_of(state / "replay")) == 1
        await serve(running, route(endpoint(target)))
        await until(lambda: target.ids == [1])
        await until(lambda: nothing_left(state))
