"""A relay that stands by takes over what a killed one had: its part, its spool, its session, its port."""

import asyncio
import copy
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from crds.errors import Stopped
from crds.kube.client import Kube
from crds.kube.process import settings_of
from crds.models.dataroute import DataRoute
from router_manager.domain.partition import Partition
from router_manager.relay.partition import Held, OtherPartsError, held
from router_manager.relay.settings import Settings
from scripts.testbed.broker import Broker
from scripts.testbed.cluster import Cluster
from scripts.testbed.processes import accepts, free_port
from tests.relay.listener.devices import Device
from tests.relay.support import Target, numbered, publish_all, serving, source, until
from tests.relay.test_kubernetes import Routes, delivers
from tests.relay.test_process import RelayProcess, more_than

KILLS = 3
AT_A_TIME = 20


@contextmanager
def killed_in_the_end(*processes: RelayProcess) -> Iterator[list[RelayProcess]]:
    found = list(processes)
    try:
        yield found
    finally:
        for process in found:
            process.child.kill()


def second(first: RelayProcess) -> RelayProcess:
    """Another process with the same flags, but for its probes."""
    other = copy.copy(first)
    other.probes = free_port()
    other._command = [str(other.probes) if word == str(first.probes) else word for word in first._command]
    other.start()
    return other


async def alive(process: RelayProcess) -> None:
    def lives() -> bool:
        try:
            return process.get("/healthz") == "ok\n"
        except OSError:
            return False

    await asyncio.to_thread(process.child.wait_until, lives, what="/healthz", limit=30)


def has_newer(target: Target, number: int) -> bool:
    return bool(target.ids) and target.ids[-1] >= number


async def kill_and_measure(processes: list[RelayProcess], target: Target, published: Callable[[], int]) -> None:
    """Kill the one that serves while another stands by; print how long the target waits for what came after that."""
    for _ in range(KILLS):
        await alive(processes[-1])
        assert not processes[-1]._ready()
        await until(partial(more_than, target, len(target.accepted) + 50, -1))
        processes[-2].child.kill()
        killed = time.monotonic()
        await until(partial(has_newer, target, published() + AT_A_TIME), what="the next delivery")
        print(f"next delivery {time.monotonic() - killed:.2f} s after SIGKILL")
        processes.append(second(processes[-1]))


@pytest.mark.broker
async def test_behind_a_broker_nothing_is_lost_and_order_is_kept(tmp_path: Path, broker: Broker) -> None:
    published = 0
    done = asyncio.Event()

    async def publish() -> None:
        nonlocal published
        while not done.is_set():
            await publish_all(broker.port, numbered(range(published, published + AT_A_TIME)))
            published += AT_A_TIME

    async with serving(Target()) as target:
        first = RelayProcess(tmp_path, broker.url, target.url)
        with killed_in_the_end(first) as processes:
            await first.ready()
            processes.append(second(first))
            publishing = asyncio.create_task(publish())
            await kill_and_measure(processes, target, lambda: published)
            done.set()
            await publishing
            await until(lambda: len(set(target.ids)) == published, what="all ids")
    assert list(dict.fromkeys(target.ids)) == list(range(published))


@pytest.mark.broker
async def test_the_listener_is_taken_over_with_its_port(tmp_path: Path, broker: Broker) -> None:
    port = free_port()
    published = 0
    done = asyncio.Event()

    async def publish(found: Device) -> None:
        """Some at a time, or paho would send new ones before those that it has to send again."""
        nonlocal published
        while not done.is_set():
            some = numbered(range(published, published + AT_A_TIME))
            sent = {found.publish("a/b", payload) for _, payload in some}
            published += AT_A_TIME
            await until(lambda: sent <= found.acknowledged.keys(), what="acknowledgements")  # noqa: B023 - in this round

    async with serving(Target()) as target:
        listen = ("--insecure", "--listen", f"127.0.0.1:{port}", "--listen-rate", "100000")
        first = RelayProcess(tmp_path, broker.url, target.url, identity=listen)
        with killed_in_the_end(first) as processes:
            await asyncio.to_thread(first.child.wait_until, partial(accepts, port), what="the listener", limit=30)
            found = Device(port, reconnect=True)
            await found.connect()
            processes.append(second(first))
            publishing = asyncio.create_task(publish(found))
            try:
                await kill_and_measure(processes, target, lambda: published)
                done.set()
                await publishing
                await until(lambda: len(set(target.ids)) == published, what="all ids")
            finally:
                publishing.cancel()
                await asyncio.to_thread(found.stop)
    assert list(dict.fromkeys(target.ids)) == list(range(published))


@pytest.mark.broker
@pytest.mark.control_plane
async def test_another_machine_takes_over_when_the_lease_ends_and_at_once_when_it_is_given_up(
    tmp_path: Path, broker: Broker, cluster: Cluster, namespace: str
) -> None:
    kubeconfig = cluster.service_account_kubeconfig("fluidos", "relay")

    def machine(name: str) -> RelayProcess:
        (tmp_path / name).mkdir()
        leased = ("--insecure", "--lease-seconds", "3")
        return RelayProcess(tmp_path / name, broker.url, kubeconfig=kubeconfig, identity=leased)

    async with serving(Target()) as target, await Kube.connect(kubeconfig=cluster.kubeconfig) as kube:
        routes = Routes(cluster, kube, namespace)
        routes.apply("r", target)
        await routes.resolve("r", "a/b")
        one, other = machine("one"), machine("other")
        with killed_in_the_end(one, other):
            await alive(one)
            await alive(other)
            await until(lambda: one._ready() or other._ready(), what="one that serves")
            first, next_one = (one, other) if one._ready() else (other, one)
            await delivers(broker, target, "a/b")
            published = 1_000_000
            for end_it, who in ((first.child.kill, first), (next_one.child.stop, next_one)):
                await asyncio.to_thread(end_it)
                await publish_all(broker.port, numbered(range(published, published + 100)))
                published += 100
                await until(lambda: published - 1 in target.ids, what="the next machine")  # noqa: B023 - in this round
                who.start()
                await alive(who)
                assert not who._ready()
            assert set(range(1_000_000, published)) <= set(target.ids)


@pytest.mark.broker
@pytest.mark.control_plane
async def test_processes_share_a_node_and_one_more_takes_the_part_of_whoever_dies(
    tmp_path: Path, broker: Broker, cluster: Cluster, namespace: str
) -> None:
    kubeconfig = cluster.service_account_kubeconfig("fluidos", "relay")
    topics = [f"d{number}/t" for number in range(8)]
    sources = [
        source(topic, flavor=f"flavor-{number}", device=f"device-{number}").dump()
        for number, topic in enumerate(topics)
    ]

    def messages(first: int) -> list[tuple[str, bytes]]:
        return [message for n in range(80) for message in numbered([first + n], topics[n % len(topics)])]

    async with serving(Target()) as target, await Kube.connect(kubeconfig=cluster.kubeconfig) as kube:
        Routes(cluster, kube, namespace).apply("r", target)
        await kube.apply_status(
            DataRoute, name="r", namespace=namespace, status={"sources": sources}, manager="router-manager-status"
        )
        first = RelayProcess(tmp_path, broker.url, kubeconfig=kubeconfig, identity=("--insecure", "--partitions", "2"))
        with killed_in_the_end(first) as processes:
            await first.ready()
            processes += [second(first), second(first)]
            for process in processes:
                await alive(process)
            await until(lambda: sum(process._ready() for process in processes) == 2, what="both parts")
            for topic in topics:  # each part has heard of its routes
                await delivers(broker, target, topic)
            await publish_all(broker.port, messages(1000))
            await until(lambda: set(range(1000, 1080)) <= set(target.ids), what="all ids")
            assert all(list((first.state / f"{part}-of-2/spool").glob("*.log")) for part in (0, 1))
            first.child.kill()
            await publish_all(broker.port, messages(2000))
            await until(lambda: set(range(2000, 2080)) <= set(target.ids), what="those of the next one")
            by_topic = [[n for n in target.ids if n >= 1000 and n % 8 == part] for part in range(8)]
            assert all(list(dict.fromkeys(ids)) == sorted(set(ids)) for ids in by_topic)


async def test_each_part_has_one_holder_and_the_next_waits_until_one_is_free(tmp_path: Path) -> None:
    stop = asyncio.Event()
    async with held(tmp_path, partitions=2, stop=stop) as one:
        entered = asyncio.Event()

        async def enter() -> Held:
            async with held(tmp_path, partitions=2, stop=stop) as place:
                entered.set()
                return place

        async with held(tmp_path, partitions=2, stop=stop) as two:
            assert {one.partition, two.partition} == {Partition(0, 2), Partition(1, 2)}
            assert one.directory != two.directory
            waiting = asyncio.create_task(enter())
            await asyncio.sleep(0.3)  # it looks several times
            assert not entered.is_set()
        async with asyncio.timeout(30):
            assert await waiting == two


async def test_who_stands_by_can_be_stopped(tmp_path: Path) -> None:
    stop = asyncio.Event()
    async with held(tmp_path, partitions=1, stop=stop):
        asyncio.get_running_loop().call_later(0.05, stop.set)
        with pytest.raises(Stopped):
            async with held(tmp_path, partitions=1, stop=stop):
                raise AssertionError("it is held")


@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 1), (2, 3)])
async def test_another_number_of_parts_is_refused_while_there_is_a_spool_of_the_old_ones(
    tmp_path: Path, before: int, now: int
) -> None:
    async with held(tmp_path, partitions=before, stop=asyncio.Event()) as place:
        (place.directory / "spool").mkdir()
    with pytest.raises(OtherPartsError, match=f"--partitions {now}: .* is of another number of parts"):
        async with held(tmp_path, partitions=now, stop=asyncio.Event()):
            pass


def test_devices_are_spread_and_stay_where_they_are() -> None:
    parts = [Partition(index, 4) for index in range(4)]
    homes = [[part.index for part in parts if part.has(f"device-{number}")] for number in range(1000)]
    assert all(len(home) == 1 for home in homes)
    assert [homes[number] for number in range(6)] == [[3], [1], [3], [1], [2], [0]]
    assert all(200 < homes.count([index]) < 300 for index in range(4))


def test_parts_and_a_listener_do_not_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--insecure", "--node", "n", "--state-dir", str(tmp_path), "--partitions", "2", "--listen", "127.0.0.1:1"]
    monkeypatch.setattr(sys, "argv", ["relay", *flags])
    with pytest.raises(SystemExit):
        settings_of(Settings)
    assert "--listen: '127.0.0.1:1' is not valid, expected none with --partitions" in capsys.readouterr().err
