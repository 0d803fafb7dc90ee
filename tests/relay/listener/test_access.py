"""Over TLS with SVIDs: who may connect, publish and subscribe, and what happens when that ends."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from router_manager.domain.admission import Grant, Grants
from router_manager.relay.mqtt.packets import Version
from spire.identity import FixedIdentity, Identity
from tests.relay.listener.devices import (
    NODE,
    OTHER,
    OWN,
    SECOND,
    UEID,
    Device,
    bare,
    connected,
    device,
    granting,
    listening,
    port_of,
)
from tests.relay.support import Target, endpoint, route, serving, table, until
from tests.relay.test_mqtt_codec import BOTH
from tests.spire.pki import bundles_of

MAPPER = f"mapper.{NODE}"
GRANTS = granting(**{UEID: ("a/b",), SECOND: ("c/d",), MAPPER: ("vouched/t",)})


@BOTH
async def test_a_device_publishes_on_its_topics_and_below_its_name(tmp_path: Path, version: Version) -> None:
    own = f"device/{UEID}/status"
    async with serving(Target()) as target, listening(tmp_path, grants=GRANTS) as running:
        running.apply(table(route(endpoint(target), topics=["a/b", own])))
        async with connected(port_of(running), identity=device(), version=version) as found:
            found.publish("a/b", b'{"id":1}')
            found.publish(own, b'{"id":2}', retain=True)
            await until(lambda: list(found.acknowledged.values()) == ["Success"] * 2)
        await until(lambda: target.ids == [1, 2])


FOREIGN = ["c/d", "vouched/t", f"device/{SECOND}/status", f"device/{UEID}", f"attest/{UEID}/evidence", "$SYS/x", "new"]


@pytest.mark.parametrize("topic", FOREIGN)
async def test_any_other_topic_is_refused_by_reason_and_nothing_else_suffers(tmp_path: Path, topic: str) -> None:
    async with serving(Target()) as target, listening(tmp_path, grants=GRANTS) as running:
        running.apply(table(route(endpoint(target), topics=["a/b", *FOREIGN])))
        async with connected(port_of(running), identity=device(), version=Version.V5) as found:
            mids = [found.publish("a/b", b'{"id":1}'), found.publish(topic, b'{"id":2}')]
            found.publish(topic, b'{"id":3}', qos=0)
            mids.append(found.publish("a/b", b'{"id":4}'))
            await until(lambda: set(mids) <= found.acknowledged.keys())
            assert [found.acknowledged[mid] for mid in mids] == ["Success", "Not authorized", "Success"]
        await until(lambda: target.ids == [1, 4])


async def test_mqtt_3_has_no_word_for_it_and_is_cut_without_an_acknowledgement(tmp_path: Path) -> None:
    async with serving(Target()) as target, listening(tmp_path, grants=GRANTS) as running:
        running.apply(table(route(endpoint(target), topics=["c/d"])))
        async with connected(port_of(running), identity=device()) as found:
            found.publish("c/d", b'{"id":1}')
            await until(lambda: found.ended)
            assert not found.acknowledged
        assert not target.ids


async def test_the_mapper_publishes_for_vouched_devices_and_for_no_other(tmp_path: Path) -> None:
    mapper = OWN.identity(f"/mapper/{NODE}")
    async with serving(Target()) as target, listening(tmp_path, grants=GRANTS) as running:
        running.apply(table(route(endpoint(target), topics=["vouched/t", "a/b"])))
        async with connected(port_of(running), identity=mapper, version=Version.V5) as found:
            good, bad = found.publish("vouched/t", b'{"id":1}'), found.publish("a/b", b'{"id":2}')
            await until(lambda: len(found.acknowledged) == 2)
            assert (found.acknowledged[good], found.acknowledged[bad]) == ("Success", "Not authorized")
            found.paho.subscribe(f"device/{UEID}/command/#", qos=1)
            await until(lambda: found.subscribed == [["Not authorized"]])
        await until(lambda: target.ids == [1])


def forged() -> Identity:
    """A device of this domain as another domain's CA signs it."""
    svid = OTHER.svid(f"/device/{UEID}/app/meter", trust_domain=OWN.trust_domain)
    return Identity(svid=svid, bundles=bundles_of(OWN, OTHER))


@pytest.mark.parametrize(
    "identity",
    [
        pytest.param(partial(device, ca=OTHER), id="same ueid of a federated domain"),
        pytest.param(forged, id="signed by a federated domain"),
        pytest.param(partial(OWN.identity, "/mapper/edge-2"), id="mapper of another node"),
        pytest.param(partial(OWN.identity, f"/relay/{NODE}"), id="relay"),
        pytest.param(partial(OWN.identity, f"/device/{UEID}"), id="device without an application"),
        pytest.param(partial(OWN.identity, "/device/nobody/app/meter"), id="no ueid"),
    ],
)
async def test_who_is_no_device_of_this_node_does_not_get_through_the_handshake(
    tmp_path: Path, identity: Callable[[], Identity]
) -> None:
    shown = identity()
    shown = Identity(svid=shown.svid, bundles=bundles_of(OWN, OTHER))
    async with listening(tmp_path, grants=GRANTS) as running:
        found = Device(port_of(running), identity=shown)
        try:
            said = await found.connect()
        except OSError:
            said = "ended in the handshake"
        finally:
            found.paho.loop_stop()
        assert said != "Success"
        assert running.listener is not None
        assert running.listener.connected == 0


async def test_without_tls_nobody_gets_through(tmp_path: Path) -> None:
    async with listening(tmp_path, grants=GRANTS) as running, bare(port_of(running), version=None) as found:
        found.writer.write(bytes.fromhex("100d00044d5154540402001e000164"))
        assert b"\x20\x02" not in await found.to_end()


@BOTH
async def test_a_device_without_a_grant_is_refused(tmp_path: Path, version: Version) -> None:
    ended = Grants(accounts={SECOND: Grant(topics=frozenset({"c/d"}), until=datetime.now(UTC) - timedelta(seconds=1))})
    async with listening(tmp_path, grants=ended) as running:
        for ueid in (UEID, SECOND):
            found = Device(port_of(running), identity=device(ueid), version=version)
            try:
                assert await found.connect() == "Not authorized"
            finally:
                found.paho.loop_stop()


async def test_the_certificate_names_the_device_whatever_it_calls_itself(tmp_path: Path) -> None:
    async with (
        listening(tmp_path, grants=GRANTS) as running,
        connected(port_of(running), identity=device(), client_id=SECOND, version=Version.V5) as first,
        connected(port_of(running), identity=device(SECOND), client_id="", version=Version.V5) as other,
    ):
        assert other.properties.AssignedClientIdentifier == SECOND
        mids = [first.publish("c/d", b"1"), first.publish("a/b", b"1")]
        await until(lambda: len(first.acknowledged) == 2)
        assert [first.acknowledged[mid] for mid in mids] == ["Not authorized", "Success"]
        assert not first.ended
        async with connected(port_of(running), identity=device(), client_id="else"):
            await until(lambda: first.ended == ["Session taken over"])


async def test_a_will_on_somebody_elses_topic_is_refused_with_the_connection(tmp_path: Path) -> None:
    async with listening(tmp_path, grants=GRANTS) as running:
        found = Device(port_of(running), identity=device(), will="c/d")
        try:
            assert await found.connect() == "Not authorized"
        finally:
            found.paho.loop_stop()


@pytest.mark.parametrize("left", [{}, {UEID: ("other",)}], ids=["no grant", "another topic"])
async def test_who_loses_its_grant_has_no_last_word(tmp_path: Path, left: dict[str, tuple[str, ...]]) -> None:
    async with serving(Target()) as target, listening(tmp_path, grants=GRANTS) as running:
        running.apply(table(route(endpoint(target), topics=["a/b"])))
        found = Device(port_of(running), identity=device(), will="a/b")
        assert await found.connect() == "Success"
        running.permit(granting(**left))
        if left:
            found.vanish()
        listener = running.listener
        assert listener is not None
        await until(lambda: not listener.connected)
        found.paho.loop_stop()
        assert (listener.counts.wills, running.ingest.received) == (0, 0)


@BOTH
async def test_a_device_hears_its_commands_and_answers_and_nothing_else(tmp_path: Path, version: Version) -> None:
    allowed = [f"device/{UEID}/command/#", f"attest/{UEID}/challenge", f"attest/{UEID}/svid"]
    refused = [
        "#",
        "a/b",
        "device/#",
        f"device/{SECOND}/command/#",
        f"attest/{UEID}/#",
        f"device/{UEID}/#",
        "attest/+/svid",
    ]
    async with listening(tmp_path, grants=GRANTS) as running:
        assert running.listener is not None
        async with connected(port_of(running), identity=device(), version=version) as found:
            for topic in (*allowed, *refused):
                found.paho.subscribe(topic, qos=1)
                await until(lambda: found.subscribed)
                word = found.subscribed.pop()[0]
                assert (word == "Granted QoS 1") == (topic in allowed), (topic, word)
            assert running.listener.send(f"device/{UEID}/command/led", b"on")
            assert running.listener.send(f"attest/{UEID}/challenge", b"nonce")
            assert not running.listener.send(f"device/{UEID}/status", b"x"), "not subscribed"
            assert not running.listener.send(f"device/{SECOND}/command/led", b"x"), "not here"
            await until(lambda: len(found.heard) == 2)
            assert found.heard == [(f"device/{UEID}/command/led", b"on"), (f"attest/{UEID}/challenge", b"nonce")]
            found.paho.unsubscribe(allowed[0])
            await until(lambda: not running.listener or not running.listener.send(f"device/{UEID}/command/led", b"off"))


async def test_no_more_is_sent_than_the_device_takes_at_a_time(tmp_path: Path) -> None:
    async with listening(tmp_path, grants=GRANTS) as running:
        assert running.listener is not None
        async with connected(port_of(running), identity=device(), version=Version.V5, receive_maximum=2) as found:
            found.paho.manual_ack_set(True)
            found.paho.subscribe(f"device/{UEID}/command/#", qos=1)
            await until(lambda: found.subscribed)
            acks: list[int] = []
            found.paho.on_message = lambda _c, _u, message: acks.append(message.mid)
            sent = [running.listener.send(f"device/{UEID}/command/{n}", b"x") for n in range(300)]
            assert sent.count(True) == 258, "two on their way, 256 queued, the others refused"
            await until(lambda: len(acks) == 2)
            await asyncio.sleep(0.2)
            assert len(acks) == 2
            found.paho.ack(acks[0], 1)
            await until(lambda: len(acks) == 3)


async def test_who_loses_its_grant_is_cut_at_once_and_others_are_not(tmp_path: Path) -> None:
    async with (
        listening(tmp_path, grants=GRANTS) as running,
        connected(port_of(running), identity=device(), version=Version.V5) as distrusted,
        connected(port_of(running), identity=device(SECOND), version=Version.V5) as other,
    ):
        running.permit(granting(**{SECOND: ("c/d", "e/f")}))
        await until(lambda: distrusted.ended == ["Not authorized"])
        mid = other.publish("e/f", b"1")
        await until(lambda: other.acknowledged.get(mid) == "Success")


async def test_a_grant_ends_by_the_clock(tmp_path: Path) -> None:
    ends = Grants(accounts={UEID: Grant(until=datetime.now(UTC) + timedelta(seconds=2))})
    async with (
        listening(tmp_path, grants=ends) as running,
        connected(port_of(running), identity=device(), version=Version.V5) as found,
    ):
        await until(lambda: found.ended == ["Not authorized"])


async def test_renewed_svids_cut_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FixedIdentity] = []

    class Noted(FixedIdentity):
        def __init__(self, identity: Identity) -> None:
            super().__init__(identity)
            made.append(self)

    monkeypatch.setattr("tests.relay.listener.devices.FixedIdentity", Noted)
    async with (
        listening(tmp_path, grants=GRANTS) as running,
        connected(port_of(running), identity=device(), version=Version.V5) as found,
    ):
        for number in range(5):
            made[0].replace(OWN.identity(f"/relay/{NODE}", knows=[OTHER]))
            mid = found.publish("a/b", b"%d" % number)
            await until(lambda mid=mid: mid in found.acknowledged)  # type: ignore[misc] # mypy infers no default
        assert not found.ended
        async with connected(port_of(running), identity=device(SECOND)):
            pass
