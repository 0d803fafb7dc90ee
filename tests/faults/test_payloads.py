"""Payloads that nobody hopes for, over a kill of the relay: each target gets them, or its dead letters do."""

from __future__ import annotations

from base64 import b64decode
from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from crds.models.shaping import Shape
from tests.faults.site import TOPICS, Relay
from tests.relay.support import Target, endpoint, publish_all, route, serving, status, table, until

_GOOD = [b'{"v":1}', b'{"v":"' + b"x" * ((1 << 20) - 100) + b'"}', b' {"v" : 1.5e3}\n']
_NOT_JSON = [b"", b"\xff\xfe{}", b'{"v":NaN}', b'{"v":-Infinity}', b'{"v":"\xc3\x28"}', b'{"v":1', b"\x00" * 100]


async def test_each_payload_arrives_as_far_as_its_form_allows_and_holds_up_no_other(tmp_path: Path) -> None:
    payloads = [one for pair in zip(_NOT_JSON, _GOOD * 3, strict=False) for one in pair]
    targets = {name: Target(always=status(503, Retry_After="0")) for name in ("array", "lines", "influx", "shaped")}
    async with (
        serving(targets["array"]) as array,
        serving(targets["lines"]) as lines,
        serving(targets["influx"]) as influx,
        serving(targets["shaped"]) as shaped,
    ):
        ways = [
            endpoint(array, "array"),
            endpoint(lines, "lines", encoding="NDJSON"),
            endpoint(influx, "influx", encoding="InfluxLine"),
            endpoint(shaped, "shaped", shape=Shape(keep=("/v",))),
        ]
        relay = Relay(tmp_path, table(route(*ways, topics=TOPICS)), logs=tmp_path)
        try:
            await until(relay.serves, what="the relay")
            await publish_all(relay.port, [(TOPICS[0], payload) for payload in payloads])
            await until(lambda: all(target.bodies for target in targets.values()), what="a try of each")
            relay.kill()
            for target in targets.values():
                target.always = None
                target.bodies.clear()
            relay.start()
            good = Counter(normal(payload) for payload in payloads if payload in _GOOD)
            all_of_them = Counter(map(normal, payloads))
            wanted = [all_of_them, all_of_them, good, Counter({b"a line": good.total()}), Counter(_NOT_JSON * 2)]

            def arrived() -> list[Counter[bytes]]:
                received = [orjson.loads(line) for body in lines.bodies for line in body.splitlines()]
                points = [b"a line" for body in influx.bodies for _ in body.splitlines()]
                readings = [map(unwrapped, some) for some in (array.accepted, received, shaped.accepted)]
                return [Counter(each) for each in (*readings, points, dead_letters(relay))]

            await until(lambda: all(map(Counter.__le__, wanted, arrived())), what="a fate for each payload and target")
        finally:
            relay.kill()
    for found, owed in zip(arrived(), wanted, strict=True):
        assert found.keys() == owed.keys()
        assert all(times <= 2 * owed[each] for each, times in found.items()), "once more at most, for the kill"


def dead_letters(relay: Relay) -> list[bytes]:
    files = (relay.state / "dead-letters").iterdir()
    return [b64decode(orjson.loads(line)["payloadBase64"]) for file in files for line in file.read_bytes().splitlines()]


def normal(payload: bytes) -> bytes:
    return payload if payload in _NOT_JSON else orjson.dumps(orjson.loads(payload))


def unwrapped(reading: Any) -> bytes:
    """What was published; JSON as the shortest of its spellings."""
    return b64decode(reading["payloadBase64"]) if "payloadBase64" in reading else orjson.dumps(reading)
