"""The event stream: what changes is told, who does not listen is let go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import orjson
import pytest

from crds.kube.watch import Gone, Put
from crds.models.fluidos import Transaction
from edge_resource_manager.domain import wire
from edge_resource_manager.gateway.events import Hub
from edge_resource_manager.gateway.records import Records
from tests.edge_resource_manager.gateway import samples
from tests.edge_resource_manager.gateway.conftest import Provider, eventually


class Listener:
    """One subscriber that hears of one namespace."""

    def __init__(self, response: Any, namespace: str) -> None:
        self._response = response
        self._namespace = namespace

    async def next(self) -> wire.Event:
        while True:
            line = await asyncio.wait_for(self._response.content.readline(), 20)
            assert line, "the stream has ended"
            event = wire.parse_event(line)
            match event:
                case wire.Refresh(flavor=wire.Flavor(flavor_id=flavor_id)) | wire.Withdraw(flavor_id=flavor_id):
                    if flavor_id.endswith(self._namespace):
                        return event
                case wire.Heartbeat():
                    return event


@asynccontextmanager
async def listening(provider: Provider, namespace: str) -> AsyncIterator[Listener]:
    async with provider.http.get(f"{provider.url}/flavors/sensors/events") as response:
        assert response.status == 200
        assert response.content_type == "application/x-ndjson"
        listener = Listener(response, namespace)
        # The first line says that the subscription stands: nothing that happens from here on is missed.
        assert isinstance(await listener.next(), wire.Heartbeat)
        yield listener


async def test_a_flavor_that_comes_changes_and_goes_is_told(provider: Provider, namespace: str) -> None:
    async with listening(provider, namespace) as listener:
        flavor = samples.sensor("a", namespace=namespace)
        (name,) = await provider.offer(flavor)
        event = await listener.next()
        assert isinstance(event, wire.Refresh)
        assert event.flavor.dump() == (await provider.get(f"/flavors/sensors/{name}")).json

        await provider.offer(samples.sensor("a", namespace=namespace, latency="12"))
        event = await listener.next()
        assert isinstance(event, wire.Refresh)
        assert event.flavor.type.data["characteristics"]["latency"] == "12"

        await provider.offer(samples.sensor("a", namespace=namespace, available=False))
        assert await listener.next() == wire.Withdraw(flavor_id=name, reason="device is not available")

        await provider.offer(samples.sensor("a", namespace=namespace))
        assert isinstance(await listener.next(), wire.Refresh)
        provider.cluster.api.request(
            "DELETE", f"/apis/nodecore.fluidos.eu/v1alpha1/namespaces/{namespace}/flavors/{name}"
        )
        assert await listener.next() == wire.Withdraw(flavor_id=name, reason="flavor is gone")


async def test_other_types_and_other_fields_make_no_event(provider: Provider, namespace: str) -> None:
    sensor = samples.sensor("a", namespace=namespace)
    await provider.offer(sensor)
    async with listening(provider, namespace) as listener:
        await provider.offer(samples.flavor("x", namespace=namespace, kind="K8Slice", data=samples.K8SLICE))
        sensor["metadata"]["labels"] = {"nobody": "cares"}
        provider.cluster.apply([sensor])
        await provider.offer(samples.sensor("b", namespace=namespace))
        event = await listener.next()
        assert isinstance(event, wire.Refresh)
        assert event.flavor.flavor_id == samples.named("b", namespace)


async def test_silence_is_filled_with_heartbeats(provider: Provider, namespace: str) -> None:
    provider.gateway.rear.heartbeat_seconds = 0.05
    async with listening(provider, namespace) as listener:
        for _ in range(3):
            assert isinstance(await listener.next(), wire.Heartbeat)


async def test_a_reader_that_does_not_read_is_cut_off(provider: Provider, namespace: str) -> None:
    provider.gateway.rear.write_seconds = 0.2
    host, port = provider.url.removeprefix("http://").split("/")[0].split(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(b"GET /api/v2/flavors/sensors/events HTTP/1.1\r\nHost: x\r\n\r\n")
    hub = provider.gateway.hub
    await eventually(lambda: len(hub) == 1, "subscribed")
    line = b"x" * 1_000_000 + b"\n"

    async def full() -> bool:
        hub.publish("flavor", line, viewer=None)  # until every buffer in between is full
        return len(hub) == 0

    await eventually(full, "cut off")
    # Another one does not notice.
    async with listening(provider, namespace):
        pass
    writer.close()


async def test_subscribers_beyond_the_limit_are_told_to_come_back(provider: Provider, namespace: str) -> None:
    provider.gateway.hub.max_subscribers = 1
    provider.gateway.rear.heartbeat_seconds = 0.2  # at which a stream notices that its reader is gone
    async with listening(provider, namespace):
        answer = await provider.get("/flavors/sensors/events")
        assert answer.status == 503
        assert answer.json["detail"] == "too many subscribers"
    await eventually(lambda: len(provider.gateway.hub) == 0, "the first one is gone")
    async with listening(provider, namespace):
        pass


async def test_ten_changes_of_one_flavor_are_one_event_and_too_many_flavors_are_the_end() -> None:
    hub = Hub()
    hub.max_pending = 3
    reader = hub.subscribe(None)
    assert reader is not None
    for number in range(10):
        hub.publish("a", b"%d\n" % number, viewer=None)
    hub.publish("b", b"b\n", viewer=None)
    hub.publish("a", b"last\n", viewer=None)
    assert await reader.take(timeout=1) == b"b\nlast\n"
    for name in ("a", "b", "c", "d"):
        hub.publish(name, b"x\n", viewer=None)
    assert not reader.is_open
    assert await reader.take(timeout=1) == b""


async def test_a_device_whose_flavor_was_refused_is_offered_all_the_same(provider: Provider, namespace: str) -> None:
    provider.cluster.apply([samples.leaf("board", namespace=namespace)])
    query = {"filter[node][match]": namespace}

    async def listed(number: int) -> bool:
        return len((await provider.get("/flavors/sensors", **query)).json) == number

    assert await listed(0)
    provider.cluster.api.request(
        "PATCH",
        f"/apis/edge.fluidos.eu/v1alpha1/namespaces/{namespace}/leafdevices/board/status",
        body={"status": samples.refused_status("2026-11-21T12:00:00Z")},
        content_type="application/merge-patch+json",
    )
    await eventually(lambda: listed(1), "offered from the LeafDevice")
    # Not refused by the API server, but not to be published: nobody stands in for that.
    untrusted = samples.refused_status("2026-11-21T12:00:00Z", reason="TierTooLow")
    for status, number in ((untrusted, 0), (samples.refused_status("2026-11-21T12:00:00Z"), 1)):
        provider.cluster.api.request(
            "PATCH",
            f"/apis/edge.fluidos.eu/v1alpha1/namespaces/{namespace}/leafdevices/board/status",
            body={"status": status},
            content_type="application/merge-patch+json",
        )
        await eventually(partial(listed, number), f"{number} offered")
    (flavor,) = (await provider.get("/flavors/sensors", **query)).json
    assert flavor["timestamp"] == "2026-11-21T12:00:00Z"
    reserved = await provider.reserve(flavor["flavorID"])
    contract = await provider.purchase(reserved.json["transactionID"])
    assert contract.status == 200
    for _ in range(3):
        await provider.gateway.housekeeper.look()
    assert len(provider.objects("contracts", namespace)) == 1
    # With the device goes all that was sold of it.
    provider.cluster.api.request("DELETE", f"/apis/edge.fluidos.eu/v1alpha1/namespaces/{namespace}/leafdevices/board")
    await eventually(lambda: provider.objects("contracts", namespace) == [], "the contract is withdrawn")


def test_an_echo_older_than_an_own_write_changes_nothing() -> None:
    def transaction(version: int, *, uid: str = "u1", until: str = "2026-11-21T12:00:00Z") -> dict[str, Any]:
        return {
            "metadata": {
                "name": "t",
                "namespace": "n",
                "uid": uid,
                "resourceVersion": str(version),
                "labels": {"app.kubernetes.io/managed-by": "fluidos-edge-gateway"},
            },
            "spec": {
                "flavorID": "f",
                "buyer": {"domain": "d", "nodeID": "b", "ip": "1.2.3.4:5"},
                "clusterID": "b",
                "expirationTime": until,
            },
        }

    records: Records[Transaction] = Records(Transaction, place=lambda item: (item.spec.flavor_id, item.metadata.name))
    key = ("n", "t")
    records.wrote(transaction(9))
    records.wrote(transaction(12, until="2027-01-01T00:00:00Z"))
    records.seen(Put(key, transaction(9)))
    held = records.get("t")
    assert held is not None
    assert held.spec.expiration_time == "2027-01-01T00:00:00Z"
    # Ended here: late news of that life do not bring it back, and its end does not end the next one.
    records.ended(held)
    records.seen(Put(key, transaction(12)))
    assert records.get("t") is None
    records.ended(records.wrote(transaction(20, uid="u2")))
    records.wrote(transaction(30, uid="u3"))
    for late in (Gone(key, "u1"), Put(key, transaction(20, uid="u2")), Gone(key, "u2")):
        records.seen(late)
        assert records.get("t") is not None
    assert list(records.of_flavor("f")) == ["t"]
    records.seen(Gone(key, "u3"))
    assert records.get("t") is None
    assert len(records) == 0
    assert records.of_flavor("f") == {}


@pytest.mark.parametrize("event", [wire.Heartbeat(), wire.Withdraw(flavor_id="f", reason="gone")])
def test_events_survive_the_wire(event: wire.Event) -> None:
    assert wire.parse_event(orjson.dumps(event.dump())) == event
    assert wire.parse_event(b'{"type": "FROM_THE_FUTURE"}') is None
