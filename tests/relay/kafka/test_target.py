"""MQTT to Kafka, read by clients that are not ours."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from crds.models.shaping import Shape
from router_manager.domain.table import LaneKey
from router_manager.relay.engine import Relay
from scripts.testbed.broker import Broker
from scripts.testbed.kafka import Kafka
from spire.identity import FixedIdentity, Identity, certificates_pem
from tests.relay.kafka.support import (
    MEMBER,
    RELAYS,
    ROOTS,
    STRANGER,
    allow,
    create,
    endpoint,
    enrol,
    exits,
    headers,
    identifier,
    read,
    relay,
)
from tests.relay.support import numbered, publish_all, route, serve, table, until
from tests.spire.pki import bundles_of

pytestmark = [pytest.mark.broker, pytest.mark.kafka]
KEY = LaneKey("route-1", "kafka")


def problem(running: Relay) -> str:
    return running.pumps[KEY].statistics.problem


def delivered(running: Relay) -> int:
    return running.pumps[KEY].statistics.delivered


def dead_letters(state: Path) -> list[dict[str, object]]:
    return [orjson.loads(line) for path in state.glob("dead-letters/*") for line in path.read_bytes().splitlines()]


async def test_every_reading_is_one_record_and_those_of_a_device_are_in_order(
    tmp_path: Path, broker: Broker, kafka: Kafka, topic: str
) -> None:
    await create(kafka, topic)
    async with relay(tmp_path / "state", broker.port, to=exits(kafka.address)) as running:
        await serve(running, route(endpoint(kafka.address, topic), topics=["a/b", "a/c"]))
        await publish_all(
            broker.port,
            [
                (each, body)
                for n in range(1500)
                for each, body in [("a/b", b'{"id":%d}' % (2 * n)), ("a/c", b'{"id":%d}' % (2 * n + 1))]
            ],
        )
        found = await read(kafka, topic, ids=set(range(3000)))
        await until(lambda: delivered(running) == 3000)
    assert [identifier(each) for each in found] == list(range(3000)), "one device, so one partition"
    assert {each.key() for each in found} == {b"device-1"}
    first = headers(found[0])
    assert int(first.pop("ingested-ns")) > 1e18
    assert first == {"flavor": b"flavor-0", "node": b"edge-1", "topic": b"a/b"}


async def test_what_a_target_wants_of_a_reading_is_the_value(
    tmp_path: Path, broker: Broker, kafka: Kafka, topic: str
) -> None:
    await create(kafka, topic)
    shaped = endpoint(kafka.address, topic, shape=Shape(keep=("/id",)), compression="Zstd")
    async with relay(tmp_path / "state", broker.port, to=exits(kafka.address)) as running:
        await serve(running, route(shaped))
        await publish_all(broker.port, numbered(range(10)))
        found = await read(kafka, topic, ids=set(range(10)))
    assert [each.value() for each in found] == [b'{"id":%d}' % number for number in range(10)]


async def test_what_a_cluster_refuses_goes_to_the_dead_letters_and_the_rest_arrives(
    tmp_path: Path, broker: Broker, kafka: Kafka, topic: str
) -> None:
    await create(kafka, topic, settings={"max.message.bytes": "300000"})
    async with relay(tmp_path / "state", broker.port, to=exits(kafka.address)) as running:
        await serve(running, route(endpoint(kafka.address, topic)))
        large = ("a/b", b'{"id":5,"x":"%b"}' % (b"y" * 400_000))
        await publish_all(broker.port, [*numbered(range(5)), large, *numbered(range(6, 10))])
        found = await read(kafka, topic, ids=set(range(10)) - {5})
        await until(lambda: running.pumps[KEY].statistics.dead == 1)
    assert [identifier(each) for each in found] == [*range(5), *range(6, 10)]
    [letter] = dead_letters(tmp_path / "state")
    assert "too large" in str(letter["reason"]).lower()


async def test_a_cluster_that_the_operator_did_not_name_is_not_dialled(
    tmp_path: Path, broker: Broker, kafka: Kafka, topic: str
) -> None:
    await create(kafka, topic)
    async with relay(tmp_path / "state", broker.port, to=exits("elsewhere:9092")) as running:
        await serve(running, route(endpoint(kafka.address, topic)))
        await publish_all(broker.port, numbered(range(3)))
        await until(lambda: "--allow-kafka" in problem(running))
        assert delivered(running) == 0


def member(name: str = MEMBER) -> Identity:
    return Identity(svid=RELAYS.svid("/relay/edge-1", common_name=name), bundles=bundles_of(RELAYS))


async def test_a_renewed_identity_is_shown_from_the_next_batch_on_and_nothing_is_lost(
    tmp_path: Path, broker: Broker, kafka: Kafka, topic: str
) -> None:
    await create(kafka, topic)
    identity = FixedIdentity(member())
    to = exits(kafka.tls_address, identity=identity)
    async with relay(tmp_path / "state", broker.port, to=to) as running:
        await serve(running, route(endpoint(kafka.tls_address, topic, ca_bundle=ROOTS)))
        for turn in range(4):
            await publish_all(broker.port, numbered(range(turn * 500, turn * 500 + 500)))
            identity.replace(member())
        found = await read(kafka, topic, ids=set(range(2000)))
        assert [identifier(each) for each in found] == list(range(2000))
        identity.replace(member(STRANGER))
        await publish_all(broker.port, numbered([2000]))
        await until(lambda: "authorization failed" in problem(running).lower())
        identity.replace(member())
        await read(kafka, topic, ids={2000})
        assert running.pumps[KEY].statistics.dead == 0


async def test_who_may_write_nowhere_is_told_so_and_its_readings_wait_until_it_may(
    tmp_path: Path, broker: Broker, kafka: Kafka, topic: str
) -> None:
    await create(kafka, topic)
    to = exits(kafka.tls_address, identity=FixedIdentity(member(STRANGER)))
    async with relay(tmp_path / "state", broker.port, to=to) as running:
        await serve(running, route(endpoint(kafka.tls_address, topic, ca_bundle=ROOTS)))
        await publish_all(broker.port, numbered(range(10)))
        # What its idempotent producer asks for first is refused as well, and for good: it takes another one.
        await until(lambda: running.pumps[KEY].statistics.retried >= 5)
        assert "authorization failed" in problem(running).lower()
        await allow(kafka, f"CN={STRANGER}", topic)
        found = await read(kafka, topic, ids=set(range(10)))
        assert [identifier(each) for each in found] == list(range(10))
        assert running.pumps[KEY].statistics.dead == 0


async def test_a_credential_signs_in_from_when_it_is_right(
    tmp_path: Path, broker: Broker, kafka: Kafka, topic: str
) -> None:
    await create(kafka, topic)
    await enrol(kafka, topic, "open sesame")
    await allow(kafka, topic, topic)

    def credential(password: str) -> None:
        said = {"origin": f"kafka://{kafka.scram_address}", "username": topic, "password": password}
        (tmp_path / "new").write_bytes(orjson.dumps(said))
        (tmp_path / "new").rename(tmp_path / "test.plant")

    credential("wrong")
    to = exits(kafka.scram_address, identity=FixedIdentity(member()), credentials=tmp_path, timeout_seconds=1.0)
    async with relay(tmp_path / "state", broker.port, to=to) as running:
        await serve(running, route(endpoint(kafka.scram_address, topic, ca_bundle=ROOTS, credential="plant")))
        await publish_all(broker.port, numbered(range(10)))
        await until(lambda: "SASL" in problem(running), what="refusal")
        credential("open sesame")
        found = await read(kafka, topic, ids=set(range(10)))
        assert [identifier(each) for each in found] == list(range(10))


async def test_a_cluster_that_proves_to_be_another_gets_nothing(
    tmp_path: Path, broker: Broker, kafka: Kafka, topic: str
) -> None:
    await create(kafka, topic)
    to = exits(kafka.tls_address, identity=FixedIdentity(member()), timeout_seconds=1.0)
    async with relay(tmp_path / "state", broker.port, to=to) as running:
        other = endpoint(kafka.tls_address, topic, ca_bundle=_other_roots())
        await serve(running, route(other))
        await publish_all(broker.port, numbered(range(3)))
        await until(lambda: "verify" in problem(running), what="refusal")
        assert delivered(running) == 0
        running.apply(table(route(endpoint(kafka.tls_address, topic, ca_bundle=ROOTS))))
        await read(kafka, topic, ids=set(range(3)))


def _other_roots() -> str:
    return certificates_pem([RELAYS.root])
