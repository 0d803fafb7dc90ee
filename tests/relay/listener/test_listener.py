"""Devices at the listener, as paho and as bare bytes: what is acknowledged is on disk, and nobody harms another."""

import asyncio
from contextlib import suppress
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router_manager.relay.engine import Relay
from router_manager.relay.listener.client import Hold
from router_manager.relay.listener.limits import Limits
from router_manager.relay.mqtt.packets import Version, publish
from router_manager.relay.spool import Spool
from tests.relay.listener.devices import LIMITS, UEID, Bare, bare, connected, granting, listening, port_of
from tests.relay.support import Target, endpoint, route, serving, status, table, until
from tests.relay.test_mqtt_codec import BOTH

SILENT = b"\0\4MQTT\4\6\0\1" + b"\0\6silent" + b"\0\4gone" + b"\0\5[-13]"
"""CONNECT with a keep-alive of a second and a will."""


def reading(number: int) -> bytes:
    return orjson.dumps({"id": number})


def counts(running: Relay) -> dict[str, int]:
    assert running.listener is not None
    found = running.listener.counts
    return {name: getattr(found, name) for name in found.__slots__}


@BOTH
async def test_each_devices_readings_are_delivered_in_order(tmp_path: Path, version: Version) -> None:
    topics = [f"a/{number}" for number in range(4)]
    async with serving(Target()) as target, listening(tmp_path) as running:
        running.apply(table(route(endpoint(target), topics=topics)))

        async def device(number: int) -> None:
            async with connected(port_of(running), client_id=f"d{number}", version=version, window=0) as found:
                for at in range(300):
                    found.publish(topics[number], reading(number * 1000 + at), qos=at % 7 > 0)
                await until(lambda: len(found.acknowledged) == 300)

        await asyncio.gather(*(device(number) for number in range(4)))
        await until(lambda: len(target.ids) == 1200)
    for number in range(4):
        own = [each for each in target.ids if each // 1000 == number]
        assert own == list(range(number * 1000, number * 1000 + 300))


@BOTH
async def test_what_is_acknowledged_is_on_disk(tmp_path: Path, version: Version) -> None:
    async with serving(Target(always=status(503))) as target, listening(tmp_path) as running:
        running.apply(table(route(endpoint(target))))
        async with connected(port_of(running), version=version) as found:
            for number in range(50):
                mid = found.publish("a/b", reading(number))
                await until(lambda mid=mid: mid in found.acknowledged)  # type: ignore[misc] # mypy infers no default
                assert running.spool.head == number + 2
            on_disk = b"".join(path.read_bytes() for path in sorted((tmp_path / "spool").glob("*.log")))
            assert all(reading(number) in on_disk for number in range(50))


async def test_many_acknowledgements_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = 0
    flush = Spool.flush

    async def counted(spool: Spool) -> None:
        nonlocal syncs
        syncs += 1
        await flush(spool)

    monkeypatch.setattr(Spool, "flush", counted)
    async with serving(Target()) as target, listening(tmp_path) as running:
        running.apply(table(route(endpoint(target))))
        async with bare(port_of(running)) as found:
            packets = [
                publish(version=Version.V311, topic="a/b", payload=reading(number), packet_id=number + 1)
                for number in range(900)
            ]
            found.writer.write(b"".join(packets))
            answers = await found.read(4 * 900)
    assert answers == b"".join(b"\x40\x02" + (number + 1).to_bytes(2, "big") for number in range(900)), "in order"
    assert 1 <= syncs <= 90


async def test_nothing_is_acknowledged_while_the_disk_is_full_and_all_of_it_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, write = True, Spool._write

    def writing(spool: Spool, data: bytes, first_id: int) -> None:
        if full:
            raise OSError(28, "No space left on device")
        write(spool, data, first_id)

    monkeypatch.setattr(Spool, "_write", writing)
    async with serving(Target()) as target, listening(tmp_path) as running:
        running.apply(table(route(endpoint(target))))
        async with connected(port_of(running)) as found:
            for number in range(100):
                found.publish("a/b", reading(number))
            await until(lambda: "No space left" in running.ingest.problem)
            assert not found.acknowledged
            full = False
            await until(lambda: len(found.acknowledged) == 100)
        await until(lambda: target.ids == list(range(100)))


async def test_a_full_spool_stops_reading_and_loses_nothing(tmp_path: Path) -> None:
    async with (
        serving(Target(always=status(503, Retry_After="0"))) as target,
        listening(tmp_path, spool_bytes=64 << 10, segment_bytes=16 << 10) as running,
    ):
        running.apply(table(route(endpoint(target))))
        async with connected(port_of(running), window=20) as found:
            for number in range(3000):
                found.publish("a/b", orjson.dumps({"id": number, "pad": "x" * 300}))
            await until(lambda: running.spool.full)
            await asyncio.sleep(0.3)
            stopped = running.ingest.received
            await asyncio.sleep(0.3)
            assert running.ingest.received == stopped < 3000
            target.always = None
            await until(lambda: len(found.acknowledged) == 3000)
        await until(lambda: set(target.ids) == set(range(3000)))


@BOTH
async def test_large_empty_and_binary_payloads_pass(tmp_path: Path, version: Version) -> None:
    payloads = [b"", b"x" * (1 << 20), bytes(range(256)), b"NaN"]
    async with serving(Target()) as target, listening(tmp_path) as running:
        running.apply(table(route(endpoint(target))))
        async with connected(port_of(running), version=version) as found:
            for payload in payloads:
                found.publish("a/b", payload)
            await until(lambda: len(found.acknowledged) == len(payloads))
        await until(lambda: len(target.accepted) == len(payloads))


async def test_a_packet_larger_than_allowed_ends_the_connection(tmp_path: Path) -> None:
    limits = Limits(packet_bytes=1000)
    async with listening(tmp_path, limits=limits) as running, bare(port_of(running), version=Version.V5) as found:
        found.writer.write(publish(version=Version.V5, topic="a/b", payload=b"x" * 1000, packet_id=1))
        assert await found.to_end() == b"\xe0\x01\x95"


@pytest.mark.parametrize(("version", "last"), [(Version.V5, b"\xe0\x01\x9b"), (Version.V311, b"")])
async def test_qos_2_is_refused_in_the_words_of_the_version(tmp_path: Path, version: Version, last: bytes) -> None:
    async with listening(tmp_path) as running, bare(port_of(running), version=version) as found:
        found.writer.write(bytes.fromhex("34060001610001") + b"\0")
        assert await found.to_end() == last


async def test_who_goes_without_a_word_leaves_a_will_and_who_says_goodbye_does_not(tmp_path: Path) -> None:
    async with serving(Target()) as target, listening(tmp_path) as running:
        running.apply(table(route(endpoint(target), topics=["gone"])))
        async with connected(port_of(running), will="gone", client_id="polite"):
            pass
        async with connected(port_of(running), will="gone", client_id="rude") as rude:
            await asyncio.to_thread(rude.vanish)
            await until(lambda: target.ids == [-1])
        assert counts(running)["wills"] == 1


async def test_a_second_connection_of_a_client_cuts_the_first(tmp_path: Path) -> None:
    async with (
        listening(tmp_path) as running,
        connected(port_of(running), version=Version.V5, client_id="one") as first,
        connected(port_of(running), version=Version.V5, client_id="one") as second,
    ):
        await until(lambda: first.ended)
        assert first.ended == ["Session taken over"]
        mid = second.publish("a/b", b"1")
        await until(lambda: mid in second.acknowledged)
        assert running.listener is not None
        assert running.listener.connected == 1


async def test_who_is_silent_for_longer_than_its_keep_alive_is_cut(tmp_path: Path) -> None:
    async with serving(Target()) as target, listening(tmp_path) as running:
        running.apply(table(route(endpoint(target), topics=["gone"])))
        async with connected(port_of(running), keep_alive=1) as alive, bare(port_of(running), version=None) as silent:
            silent.writer.write(bytes([0x10, len(SILENT)]) + SILENT)
            assert await silent.read(4) == b"\x20\x02\0\0"
            assert await silent.to_end() == b""
            assert not alive.ended, "paho pings"
        await until(lambda: target.accepted == [[-13]])


@pytest.mark.parametrize("said", ["", "10", "10ff"])
async def test_who_never_finishes_its_connect_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setattr("router_manager.relay.listener.client._CONNECT_SECONDS", 0.5)
    async with listening(tmp_path) as running, bare(port_of(running), version=None) as slow:
        slow.writer.write(bytes.fromhex(said))
        assert await slow.to_end() == b""


async def test_who_drips_a_packet_is_cut_although_it_is_never_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router_manager.relay.listener.client._PACKET_SECONDS", 1.5)
    async with listening(tmp_path) as running, bare(port_of(running)) as slow:
        ended = asyncio.create_task(slow.to_end())
        slow.writer.write(b"\x30\x7f\0\x03a/b")
        while not ended.done():
            slow.writer.write(b"x")
            await asyncio.sleep(0.1)
        assert ended.result() == b""
        assert counts(running)["timed_out"] == 1


async def test_a_flood_is_slowed_and_the_others_are_not(tmp_path: Path) -> None:
    limits = Limits(per_second=200, burst=100)
    async with serving(Target()) as target, listening(tmp_path, limits=limits) as running:
        running.apply(table(route(endpoint(target), topics=["flood", "calm"])))
        loop = asyncio.get_running_loop()
        async with bare(port_of(running), client_id="flood") as flood, connected(port_of(running)) as calm:
            started = loop.time()
            for number in range(500):
                flood.writer.write(publish(version=Version.V311, topic="flood", payload=b"1", packet_id=number + 1))
                await asyncio.sleep(0)
            waits = []
            for number in range(20):
                sent = loop.time()
                mid = calm.publish("calm", reading(number))
                await until(lambda mid=mid: mid in calm.acknowledged)  # type: ignore[misc] # mypy infers no default
                waits.append(loop.time() - sent)
            await flood.read(4 * 500)
            flood.writer.write(b"\xc0\0")
            await flood.read(2)
            assert loop.time() - started >= 1.9, "500 messages at 200 a second, 100 of them at once"
            assert sorted(waits)[10] < 0.5
        assert counts(running)["throttled"] >= 1


@BOTH
async def test_who_does_not_wait_for_acknowledgements_is_held_to_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: Version
) -> None:
    limits = Limits(per_second=1e6, burst=1e6, receive_maximum=10)
    packets = [publish(version=version, topic="a/b", payload=reading(n), packet_id=n + 1) for n in range(200)]
    async with listening(tmp_path, limits=limits) as running, bare(port_of(running), version=version) as found:
        found.writer.write(b"".join(packets))
        if version is Version.V5:
            assert await found.to_end() == b"\xe0\x01\x93"
        else:
            assert len(await found.read(4 * 200)) == 800


async def test_connections_are_bounded(tmp_path: Path) -> None:
    async with (
        listening(tmp_path, connections=2) as running,
        bare(port_of(running), client_id="1") as first,
        bare(port_of(running), client_id="2"),
    ):
        async with bare(port_of(running), version=None) as third:
            assert await third.to_end() == b""
        first.writer.write(b"\xe0\0")
        assert await first.to_end() == b""
        async with bare(port_of(running), client_id="3"):
            pass


async def test_who_never_reads_its_answers_does_not_fill_our_memory_and_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router_manager.relay.listener.client._PACKET_SECONDS", 5.0)
    monkeypatch.setattr("router_manager.relay.listener.client._GOODBYE_SECONDS", 1.0)
    async with listening(tmp_path) as running, bare(port_of(running)) as deaf:
        assert running.listener is not None
        (client,) = running.listener._clients
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket's transport can
        flood = asyncio.create_task(ping(deaf))
        await until(lambda: Hold.WRITES in client._held)
        assert client._transport is not None
        assert client._transport.get_write_buffer_size() < 4 << 20
        await until(lambda: counts(running)["timed_out"] == 1)
        await until(lambda: not running.listener or not running.listener._clients)
        await flood


async def ping(device: Bare) -> None:
    """Until it is cut."""
    with suppress(ConnectionError):
        while True:
            device.writer.write(b"\xc0\0" * 20_000)
            await device.writer.drain()


async def test_noise_ends_the_connection_that_it_came_on_and_no_other(tmp_path: Path) -> None:
    async with serving(Target()) as target, listening(tmp_path) as running:
        running.apply(table(route(endpoint(target))))
        async with connected(port_of(running), client_id="good") as good:

            @given(kind=st.integers(0, 255), body=st.binary(max_size=30))
            @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
            def noise(kind: int, body: bytes) -> None:
                packets.append(bytes([kind, len(body)]) + body)

            packets: list[bytes] = [bytes([kind << 4, 0]) for kind in range(16)]
            noise()
            for number, packet in enumerate(packets):
                version = list(Version)[number % 2]
                async with bare(port_of(running), version=version, client_id="bad") as bad:
                    bad.writer.write(packet + b"\xe0\0")
                    await bad.to_end()
            mid = good.publish("a/b", reading(7))
            await until(lambda: mid in good.acknowledged)
            await until(lambda: 7 in target.ids)
            assert not good.ended


async def test_grants_of_the_last_life_hold_until_the_api_server_speaks(tmp_path: Path) -> None:
    async with listening(tmp_path, grants=granting(**{UEID: ("a/b",)})):
        pass
    async with listening(tmp_path) as running:
        assert running.listener is not None
        assert running.listener._grants == granting(**{UEID: ("a/b",)})


async def test_sigterm_keeps_the_will_and_tells_why(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=LIMITS) as running:
        async with connected(port_of(running), version=Version.V5, will="gone") as found:
            mid = found.publish("a/b", b"1")
            await until(lambda: mid in found.acknowledged)
            await running.drain(5.0)
            await until(lambda: found.ended)
            assert found.ended == ["Server shutting down"]
        assert counts(running)["wills"] == 0
