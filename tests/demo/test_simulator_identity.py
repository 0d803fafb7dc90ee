"""Simulated devices that prove who they are: a real DICE engine, real TLS, a real broker, and an issuer's decisions."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding
from paho.mqtt.enums import CallbackAPIVersion

from scripts.simulator.dice import Image
from scripts.simulator.factory import Factory, open_board, policy_yaml
from scripts.simulator.identity import tampered
from scripts.simulator.tamper import write
from scripts.testbed.broker import Broker, BrokerTls
from scripts.testbed.manifests import REPOSITORY
from spire.domain import cbor
from spire.domain.authority import X509Authority, key_of_csr, sign_svid
from spire.domain.authorization import under
from spire.domain.enrolment import enrol
from spire.domain.nonces import Nonces
from spire.domain.site import site_of
from spire.domain.spiffe_id import device_spiffe_id
from spire.domain.ueid import Ueid
from spire.domain.verdict import Attested, Refused
from spire.identity import FixedIdentity, Identity
from spire.readings import verify
from spire.tls import client_context, server_context
from tests.spire.pki import Ca

CODE = b"thermometer 1.2"
NODE = "edge-1"


@dataclass
class Desk:
    """What an issuer decides, without the API server that would remember it."""

    factory: Factory
    ca: Ca = field(default_factory=lambda: Ca.of("site.test"))
    ttl: timedelta = timedelta(hours=1)
    nonces: Nonces = field(default_factory=Nonces)
    seen: list[str] = field(default_factory=list)

    def challenge(self, ueid: str) -> bytes:
        nonce = self.nonces.give(secrets.token_bytes(32), peer=ueid, now=datetime.now(UTC))
        return cbor.encode({"nonce": nonce, "trustDomain": "site.test"})

    def evidence(self, ueid: str, body: bytes) -> tuple[int, bytes]:
        parts: Any = cbor.decode(body, field="body", limit=65536)
        evidence, csr = parts
        now = datetime.now(UTC)
        site = site_of(self.factory.policy([Image(code=CODE, application="thermo", version="1.2")]))
        named = Ueid(bytes.fromhex(ueid))
        outcome = enrol(evidence, csr=csr, ueid=named, peer=ueid, nonces=self.nonces, site=site, last=None, now=now)
        match outcome.verdict:
            case Attested() as device:
                self.seen.append("Attested")
                return 200, self._issue(device, csr, now)
            case Refused(reason=reason, message=message):
                self.seen.append(str(reason))
                return 403, cbor.encode({"reason": str(reason), "message": message})
            case other:
                pytest.fail(f"{other}")

    def _issue(self, device: Attested, csr: bytes, now: datetime) -> bytes:
        spiffe_id = device_spiffe_id(self.ca.trust_domain, ueid=device.ueid, application=device.application)
        authority = X509Authority(certificate=self.ca.certificate, key=self.ca.key, active_from=now)
        leaf = sign_svid(
            authority,
            spiffe_id=spiffe_id,
            key=key_of_csr(csr),
            common_name=str(device.ueid),
            now=now,
            ttl=self.ttl,
            serial=secrets.randbits(64) + 1,
        )
        return cbor.encode(
            {
                "spiffeID": str(spiffe_id),
                "chain": [leaf.public_bytes(Encoding.DER)],
                "bundles": {"site.test": [self.ca.root]},
                "expires": int((now + self.ttl).timestamp()),
            }
        )


@dataclass
class Site:
    """A desk, a broker with identities, and the files of one board."""

    desk: Desk
    broker: Broker
    directory: Path
    ueid: str

    @property
    def flash(self) -> Path:
        return self.directory / "flash"

    def entry(self, attest: str, /, **changes: Any) -> dict[str, Any]:
        identity = {
            "board": str(self.directory / "board-1.json"),
            "image": str(self.flash),
            "application": "thermo",
            "version": "1.2",
            "attest": attest,
            "bundle": str(self.directory / "own.pem"),
            **changes,
        }
        sensor = {"device": "board-1", "sensor": "x", "types": ["Pressure"], "topic": "sensor/1"}
        return {**sensor, "broker": self.broker.url, "identity": identity}

    def identity(self, path: str) -> FixedIdentity:
        common_name = path.strip("/").replace("/", ".")
        svid = self.desk.ca.svid(path, common_name=common_name)
        return FixedIdentity(Identity(svid=svid, bundles={self.desk.ca.trust_domain: (self.desk.ca.root,)}))

    def write_svid(self, directory: Path, path: str, *, roots: str) -> None:
        directory.mkdir(exist_ok=True)
        held = self.identity(path).current
        (directory / "svid.pem").write_text(held.svid.chain_pem)
        (directory / "key.pem").write_text(held.svid.key_pem)
        (directory / roots).write_bytes(self.desk.ca.certificate.public_bytes(Encoding.PEM))

    @asynccontextmanager
    async def issuer(self) -> AsyncIterator[str]:
        """The desk behind HTTPS."""

        async def challenge(request: web.Request) -> web.Response:
            return web.Response(body=self.desk.challenge(request.match_info["ueid"]))

        async def evidence(request: web.Request) -> web.Response:
            status, body = self.desk.evidence(request.match_info["ueid"], await request.read())
            return web.Response(body=body, status=status)

        app = web.Application()
        app.router.add_post("/v1/devices/{ueid}/challenge", challenge)
        app.router.add_post("/v1/devices/{ueid}/evidence", evidence)
        runner = web.AppRunner(app)
        await runner.setup()
        tls = server_context(self.identity("/issuer"), authorize=under("/"), client_certificates="optional")
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        try:
            yield f"https://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    def client(self, path: str) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.tls_set_context(client_context(self.identity(path), authorize=under("/broker/")))
        return client

    def carry(self) -> paho.Client:
        """The desk behind MQTT, as the edge agent carries it."""
        agent = self.client(f"/agent/{NODE}")

        def on_message(_client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
            _, ueid, what = message.topic.split("/")
            if what == "hello":
                agent.publish(f"attest/{ueid}/challenge", self.desk.challenge(ueid), qos=1)
            elif what == "evidence":
                agent.publish(f"attest/{ueid}/svid", self.desk.evidence(ueid, bytes(message.payload))[1], qos=1)

        agent.on_message = on_message
        agent.on_connect = lambda *_: agent.subscribe("attest/#", qos=1)  # type: ignore[assignment]  # its result is not asked for
        agent.connect("127.0.0.1", int(self.broker.agent_onboarding_url.rsplit(":", 1)[1]))
        agent.loop_start()
        return agent

    def relay(self) -> tuple[paho.Client, list[str]]:
        """Who hears what is published, and may ask devices to attest again."""
        relay, heard = self.client(f"/relay/{NODE}"), list[str]()
        relay.on_message = lambda _client, _data, message: heard.append(message.topic)
        relay.on_connect = lambda *_: relay.subscribe("sensor/#", qos=1)  # type: ignore[assignment]  # as above
        relay.connect("127.0.0.1", self.broker.port)
        relay.loop_start()
        return relay, heard


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    factory = Factory.found("acme")
    board = open_board(tmp_path / "board-1.json", factory=factory)
    (tmp_path / "flash").write_bytes(CODE)
    made = Site(Desk(factory), broker=None, directory=tmp_path, ueid=str(board.ueid))  # type: ignore[arg-type]  # follows
    (tmp_path / "own.pem").write_bytes(made.desk.ca.certificate.public_bytes(Encoding.PEM))
    tls = BrokerTls(data=tmp_path / "data", onboarding=tmp_path / "onboarding", node=NODE)
    for directory in (tls.data, tls.onboarding):
        made.write_svid(directory, f"/broker/{NODE}", roots="own.pem")
    state = tmp_path / "broker"
    state.mkdir()
    (state / "dynamic-security.json").write_text(json.dumps(accounts(made.ueid, f"relay.{NODE}", f"mapper.{NODE}")))
    with Broker(state, tls=tls, autosave_changes=100) as broker:
        made.broker = broker
        yield made


def accounts(*names: str) -> dict[str, Any]:
    """Everything for those who are named."""
    types = ("publishClientSend", "publishClientReceive", "subscribePattern")
    acls = [{"acltype": each, "topic": "#", "allow": True} for each in types]
    return {
        "defaultACLAccess": dict.fromkeys(("publishClientSend", "publishClientReceive", "subscribe"), False),
        "clients": [{"username": name, "roles": [{"rolename": "all"}]} for name in names],
        "roles": [{"rolename": "all", "acls": acls}],
    }


@asynccontextmanager
async def simulator(*entries: dict[str, Any], flags: tuple[str, ...] = ()) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scripts.simulator", "--devices", "-", "--rate", "50", *flags),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin
    process.stdin.write(json.dumps(entries).encode())
    process.stdin.close()
    try:
        yield process
    finally:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()


async def said(process: asyncio.subprocess.Process, what: str) -> str:
    """The next line of the simulator's that has these words."""
    assert process.stderr
    async with asyncio.timeout(30):
        while line := (await process.stderr.readline()).decode():
            if what in line:
                return line
    pytest.fail(f"it ended and did not say: {what}")


async def until(list_: list[Any], count: int) -> None:
    for _ in range(1500):
        if len(list_) >= count:
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"{len(list_)} of {count} came")


@pytest.mark.broker
async def test_a_device_attests_at_the_issuer_and_publishes_with_its_svid(site: Site) -> None:
    relay, heard = site.relay()
    async with site.issuer() as url, simulator(site.entry(url), flags=("--messages", "20")) as process:
        assert f"spiffe://site.test/device/{site.ueid}/app/thermo" in await said(process, "board-1: is")
        out, _ = await process.communicate()
    relay.disconnect()
    relay.loop_stop()
    assert json.loads(out) == {"sent": 20, "acknowledged": 20}
    assert site.desk.seen == ["Attested"]
    assert heard == ["sensor/1"] * 20


@pytest.mark.broker
async def test_a_device_attests_over_mqtt_and_again_at_half_life_when_asked_and_after_a_cut(site: Site) -> None:
    site.desk.ttl = timedelta(seconds=4)
    agent = site.carry()
    relay, heard = site.relay()
    async with simulator(site.entry(site.broker.onboarding_url)) as process:
        await said(process, "board-1: is")
        await until(heard, 5)
        await until(site.desk.seen, 2)
        site.desk.ttl = timedelta(hours=1)
        await until(site.desk.seen, 3)
        relay.publish(f"attest/{site.ueid}/challenge", site.desk.challenge(site.ueid), qos=1)
        await until(site.desk.seen, 4)
        before = len(heard)
        await asyncio.to_thread(site.broker.restart)
        await until(site.desk.seen, 5)
        await until(heard, before + 5)
    for client in (agent, relay):
        client.disconnect()
        client.loop_stop()
    assert set(site.desk.seen) == {"Attested"}


@pytest.mark.broker
async def test_a_rewritten_flash_is_started_and_its_lie_is_seen_while_it_goes_on_publishing(site: Site) -> None:
    relay, heard = site.relay()
    async with site.issuer() as url, simulator(site.entry(url)) as process:
        await said(process, "board-1: is")
        await until(heard, 1)
        tamper = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "scripts.simulator.tamper", str(site.flash), cwd=REPOSITORY
        )
        await tamper.wait()
        assert "ClaimContradicted" in await said(process, "refused")
        await until(heard, len(heard) + 5)
        write(site.flash, CODE)
        await until(site.desk.seen, len(site.desk.seen) + 1)
    relay.disconnect()
    relay.loop_stop()
    assert site.flash.read_bytes() != tampered(CODE)
    assert site.desk.seen[0] == site.desk.seen[-1] == "Attested"


@pytest.mark.broker
async def test_a_reading_can_be_believed_for_its_own_signature(site: Site) -> None:
    relay, _ = site.relay()
    payloads: list[bytes] = []
    relay.on_message = lambda _client, _data, message: payloads.append(bytes(message.payload))
    async with (
        site.issuer() as url,
        simulator({**site.entry(url), "integrity": "Signed"}, flags=("--messages", "3")) as process,
    ):
        await process.communicate()
    await until(payloads, 3)
    relay.disconnect()
    relay.loop_stop()
    bundles = {site.desk.ca.trust_domain: (site.desk.ca.root,)}
    believed = [verify(each, bundles=bundles, now=datetime.now(UTC)) for each in payloads]
    assert {str(each.spiffe_id) for each in believed} == {f"spiffe://site.test/device/{site.ueid}/app/thermo"}
    assert [json.loads(each.payload)["id"] for each in believed] == ["board-1-0", "board-1-1", "board-1-2"]
    assert believed[0].sequence < believed[1].sequence < believed[2].sequence


@pytest.mark.broker
async def test_a_mapper_publishes_for_devices_that_cannot_prove_themselves(site: Site, tmp_path: Path) -> None:
    site.write_svid(tmp_path / "mapper", f"/mapper/{NODE}", roots="bundle.pem")
    entry = {**site.entry("https://127.0.0.1:1"), "svid": str(tmp_path / "mapper")}
    del entry["identity"]
    flags = ("--messages", "20")
    async with simulator({**entry, "device": "a"}, {**entry, "device": "b"}, flags=flags) as process:
        out, err = await process.communicate()
    assert json.loads(out) == {"sent": 40, "acknowledged": 40}, err


@pytest.mark.broker
async def test_nobody_but_the_issuer_of_its_own_trust_domain_is_shown_evidence(site: Site) -> None:
    (site.directory / "own.pem").write_bytes(Ca.of("site.test").certificate.public_bytes(Encoding.PEM))
    async with site.issuer() as url, simulator(site.entry(url)) as process:
        await said(process, "not attested")
    assert site.desk.seen == []


@pytest.mark.broker
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"board": "/nowhere"}, "/nowhere"),
        ({"image": "/nowhere"}, "identity.image"),
        ({"attest": "http://127.0.0.1:1"}, "identity.attest"),
    ],
)
async def test_a_bad_identity_is_named(site: Site, changes: dict[str, str], expected: str) -> None:
    async with simulator(site.entry("https://127.0.0.1:1", **changes)) as process:
        _, err = await process.communicate()
    assert process.returncode == 2
    assert expected in err.decode()


async def test_who_has_no_identity_cannot_sign() -> None:
    entry = {"device": "d", "sensor": "x", "types": ["Pressure"], "topic": "t", "broker": "mqtt://127.0.0.1:1"}
    async with simulator({**entry, "integrity": "Signed"}) as process:
        _, err = await process.communicate()
    assert process.returncode == 2
    assert "an identity where integrity is Signed" in err.decode()


def test_a_factory_makes_the_same_policy_and_boards_when_called_again(tmp_path: Path) -> None:
    image = Image(code=CODE, application="thermo")
    first, second = (Factory.open(tmp_path, name="acme") for _ in range(2))
    assert policy_yaml(first.policy([image])) == policy_yaml(second.policy([image]))
    boards = [open_board(tmp_path / "board.json", factory=each) for each in (first, second)]
    assert boards[0] == boards[1]
    assert (tmp_path / "root.key").stat().st_mode & 0o77 == 0
