"""The relay's process with its listener: killed under load, and told of wrong flags."""

import asyncio
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import orjson
import pytest

from crds.kube.process import settings_of
from router_manager.relay.settings import Settings
from scripts.testbed.broker import Broker
from scripts.testbed.processes import accepts, free_port
from tests.relay.listener.devices import NODE, OWN, UEID, Device, device, granting
from tests.relay.support import Target, serving, until
from tests.relay.test_broker_identity import workload_api
from tests.relay.test_process import RelayProcess, more_than

pytestmark = pytest.mark.broker
TOTAL = 8000


@contextmanager
def running(directory: Path, broker: str, url: str, port: int, *identity: str) -> Iterator[RelayProcess]:
    flags = (*identity, "--listen", f"127.0.0.1:{port}", "--listen-rate", "100000")
    process = RelayProcess(directory, broker, url, identity=flags)
    try:
        yield process
    finally:
        process.child.kill()


async def kill_under_load(process: RelayProcess, found: Device, target: Target, *, kills: int, port: int) -> None:
    """Every acknowledged id has to arrive, and in the end every id; the first arrival of each in order."""
    chance = random.Random(7)  # noqa: S311 - when to kill is no secret
    await asyncio.to_thread(process.child.wait_until, partial(accepts, port), what="the listener", limit=30)
    await found.connect()
    ids: dict[int, int] = {}
    publishing = asyncio.create_task(asyncio.to_thread(publish_all, found, ids))
    try:
        for _ in range(kills):
            seen = len(target.accepted)
            await until(partial(more_than, target, seen, TOTAL))
            await asyncio.sleep(chance.uniform(0, 0.2))
            process.child.kill()
            answered = {ids[mid] for mid in list(found.acknowledged) if mid in ids}
            process.start()
            await until(lambda answered=answered: answered <= set(target.ids), what="all that was acknowledged")  # type: ignore[misc] # mypy infers no default
        await publishing
        await until(lambda: len(set(target.ids)) == TOTAL, what="all ids")
    finally:
        await asyncio.to_thread(found.stop)
    first_seen = list(dict.fromkeys(target.ids))
    assert first_seen == list(range(TOTAL))


def publish_all(found: Device, ids: dict[int, int]) -> None:
    for number in range(TOTAL):
        ids[found.publish("a/b", orjson.dumps({"id": number}))] = number


async def test_killed_under_load_it_loses_nothing_over_tls_on_the_grants_of_its_last_life(tmp_path: Path) -> None:
    port = free_port()
    state = tmp_path / "relay"
    async with (
        serving(Target()) as target,
        workload_api(tmp_path / "api", OWN.identity(f"/relay/{NODE}")) as (socket, _),
    ):
        flags = ("--identity-socket", str(socket), "--allow-plain-http")
        with running(tmp_path, "mqtts://127.0.0.1:9", target.url, port, *flags) as process:
            process.child.kill()
            (state / "grants.json").write_text(granting(**{UEID: ("a/b",)}).model_dump_json(by_alias=True))
            process.start()
            found = Device(port, identity=device(), reconnect=True)
            await kill_under_load(process, found, target, kills=3, port=port)


async def test_metrics_tell_of_devices_and_readiness_of_the_listener(tmp_path: Path, broker: Broker) -> None:
    port = free_port()
    async with serving(Target()) as target:
        with running(tmp_path, broker.url, target.url, port, "--insecure") as process:
            await process.ready()
            assert accepts(port)
            found = Device(port)
            assert await found.connect() == "Success"
            mid = found.publish("a/b", b'{"id":1}')
            await until(lambda: mid in found.acknowledged)
            text = await asyncio.to_thread(process.get, "/metrics")
            found.stop()
    assert "fluidos_edge_relay_devices_connected 1.0" in text
    assert "fluidos_edge_relay_received_total 1.0" in text
    assert "fluidos_edge_relay_devices_malformed_total 0.0" in text


async def test_a_site_without_a_broker_has_the_listener_alone(tmp_path: Path) -> None:
    port = free_port()
    async with serving(Target()) as target:
        with running(tmp_path, "none", target.url, port, "--insecure") as process:
            await process.ready()
            found = Device(port)
            assert await found.connect() == "Success"
            found.publish("a/b", b'{"id":1}')
            await until(lambda: target.ids == [1])
            found.stop()


def test_a_relay_has_some_way_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--insecure", "--node", "n", "--state-dir", str(tmp_path), "--broker", "none"]
    monkeypatch.setattr(sys, "argv", ["relay", *flags])
    with pytest.raises(SystemExit):
        settings_of(Settings)
    assert "with --broker none there is no other way in" in capsys.readouterr().err
