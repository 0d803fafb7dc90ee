"""Signed readings: whoever may speak at the broker, nobody makes a receiver believe what the device did not say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any

import orjson
import paho.mqtt.client as paho
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from crds.models.base import validate
from scripts.demo.observe import simulated
from scripts.simulator.doors import attest
from scripts.simulator.identity import FileStore, Firmware
from scripts.simulator.readings import SimulatedSensor
from scripts.sink.identity import read_identity
from spire.domain.authorization import in_domain
from spire.domain.keys import PrivateKey
from spire.identity import FixedIdentity, Identity
from spire.readings import sign
from spire.tls import client_context
from tests.scenario.world import LIMIT, World

SIGNING, VOUCHED = "nucleo-1", "anemometer-1"
CLAIMS: dict[str, dict[str, Any]] = {
    "signed": {"sensor": {"type": "Humidity"}, "integrity": "Signed", "count": "All"},
    "windy": {"sensor": {"type": "WindSpeed"}, "count": 1},
}
NOT_AUTHORIZED = 0x87


def test_a_broker_client_with_rights_forges_no_signed_reading(world: World) -> None:
    with world.claimed(*(world.claim(name, spec, {"first": "NDJSON"}) for name, spec in CLAIMS.items())):
        world.wait_bound(*CLAIMS)
        with world.flow(*CLAIMS) as flow:
            pass
        world.wait_delivered(flow)
        ((signing,), (vouched,)) = (world.flavors(device) for device in (SIGNING, VOUCHED))
        assert signing.view.trust
        signer = signing.view.trust.spiffe_id
        assert {each.signed_by for each in world.sink.received("signed.first").arrivals.values()} == {signer}

        device, firmware = identity_of(world, SIGNING)
        mapper = read_identity(world.provider.directory / "id" / "mapper")
        genuine = message("genuine", key=firmware.key, chain=device.svid.chain)
        own = load_der_private_key(mapper.svid.key, None)
        assert isinstance(own, ec.EllipticCurvePrivateKey)
        forged = [
            {**genuine, "id": "forged", "value": 99},
            {"id": "forged", "signed": genuine["signed"]},
            message("forged", key=own, chain=mapper.svid.chain),
            message("forged", key=own, chain=device.svid.chain),
        ]
        topic = vouched.view.sensor.access.topic
        with publishing(world, mapper) as publish:
            assert publish(signing.view.sensor.access.topic, forged[0]) == NOT_AUTHORIZED
            # Where it may speak the relay takes it, in this order.
            for each in (*forged, genuine, {"id": "unsigned"}):
                assert publish(topic, each) < NOT_AUTHORIZED
        world.wait(lambda: "unsigned" in world.arrived("windy.first"), "what the mapper published")
        received = world.sink.received("windy.first")
        assert received.unverifiable == len(forged)
        found = {name: received.arrivals[name].signed_by for name in ("genuine", "unsigned")}
        # Whose it is stays with a reading that is played back as somebody else's.
        assert found == {"genuine": signer, "unsigned": None}
        assert "forged" not in received.arrivals


def identity_of(world: World, device: str) -> tuple[Identity, Firmware]:
    """The device itself: what it has when it has proven who it is."""
    entry = next(each for each in simulated(world.provider) if each["device"] == device)
    said = validate(SimulatedSensor, entry).identity
    assert said is not None
    firmware = Firmware(said, FileStore(said))
    answer = attest(
        said.attest, bundle=world.provider.directory / "id" / "bundle.pem", ueid=firmware.ueid, react=firmware.react
    )
    assert isinstance(answer, Identity), answer
    return answer, firmware


def message(name: str, *, key: PrivateKey, chain: tuple[bytes, ...]) -> dict[str, Any]:
    now = datetime.now(UTC)
    payload = orjson.dumps({"id": name, "device": SIGNING, "value": 1})
    signed = sign(payload, key=key, chain=chain, sensor="s", sequence=int(now.timestamp() * 1_000_000), time=now)
    found: dict[str, Any] = orjson.loads(signed)
    return found


@contextmanager
def publishing(world: World, identity: Identity) -> Iterator[Callable[[str, object], int]]:
    """Somebody at the broker; each publication returns the broker's reason code."""
    broker = in_domain(identity.svid.spiffe_id.trust_domain, path="/broker/")
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.tls_set_context(client_context(FixedIdentity(identity), authorize=broker))
    codes: SimpleQueue[int] = SimpleQueue()
    client.on_publish = lambda _client, _data, _mid, code, _properties: codes.put(code.value)
    client.connect("127.0.0.1", world.provider.broker.port)
    client.loop_start()

    def publish(topic: str, reading: object) -> int:
        client.publish(topic, orjson.dumps(reading), qos=1)
        return codes.get(timeout=LIMIT)

    try:
        yield publish
    finally:
        client.disconnect()
        client.loop_stop()
