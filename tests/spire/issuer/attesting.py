"""An issuer's appraisal at work: a real API server, a real HTTP server, and devices with real DICE engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import cbor2
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from crds.conditions import timestamp
from crds.kube.client import Kube
from crds.models.appraisal import CONFIG_MAP, KEY, AppraisalPolicy
from scripts.simulator.dice import BOOT_LOADER, Board, Device, Image
from scripts.simulator.factory import Factory, policy_yaml
from scripts.testbed.cluster import Cluster
from spire.domain.dice import Inputs, Mode
from spire.domain.spiffe_id import TrustDomain
from spire.domain.svid import verify_svid
from spire.issuer.appraisal_policy import Policies, ReferenceValues
from spire.issuer.attestation import Attestation
from spire.issuer.authority import Authority, EmbeddedAuthority
from spire.issuer.devices import Devices
from spire.issuer.store import FileStore
from tests.spire.issuer.leaves import Leaves, until

SITE = TrustDomain("site.test")
ACME, GLOBEX = Factory.found("acme"), Factory.found("globex")
BOOT = Image(code=BOOT_LOADER)
THERMO = Image(code=b"thermometer", application="thermo", version="1.2", counter=7)
OLDER = Image(code=b"thermometer of last year", application="thermo", version="1.1", counter=6)
PUMP = Image(code=b"pump", application="pump", version="1.0", counter=1)
TAMPERED = Image(code=b"thermometer, and a back door", application="thermo", version="1.2", counter=7)
POLICY = ACME.policy([THERMO, OLDER, PUMP])


class Clock:
    """A time that can be moved."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Answer:
    """What the issuer said."""

    status: int
    body: dict[str, Any]

    @property
    def reason(self) -> str | None:
        return self.body.get("reason")


@dataclass
class Thing:
    """A board with a LeafDevice; each boot gives another device with the same name.

    Attributes:
        own: the key that it wants certified.
    """

    board: Board
    leaf: str
    own: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def ueid(self) -> str:
        return str(self.board.ueid)

    def boot(self, image: Image = THERMO, *, mode: Mode = Mode.NORMAL) -> Device:
        layers: tuple[Inputs, ...] = (BOOT.inputs(), image.inputs(mode))
        return self.board.boot(*layers, own=self.own)


@dataclass
class Issuer:
    """The part of the issuer that devices see.

    Attributes:
        leaves: LeafDevices of the test.
        attestation: what is tested; so are `policies` and `devices`.
        url: where it listens.
    """

    leaves: Leaves
    policies: Policies
    devices: Devices
    attestation: Attestation
    authority: Authority
    clock: Clock
    url: str
    http: aiohttp.ClientSession

    def thing(self, *, maker: Factory = ACME, form: str = "cbor", expected: bool = True) -> Thing:
        board = maker.board(
            ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value.to_bytes(32, "big"), form=form
        )
        return Thing(board, self.leaves.add(str(board.ueid)) if expected else "")

    async def known(self, *things: Thing) -> None:
        """Until the issuer expects them."""
        await until(lambda: all(self.devices.expects(each.board.ueid) for each in things), lambda: "not expected")

    async def post(self, path: str, body: bytes = b"") -> Answer:
        async with self.http.post(f"{self.url}/v1/devices/{path}", data=body) as response:
            data = await response.read()
            return Answer(response.status, cbor2.loads(data) if data[:1] >= b"\xa0" else {"text": data})

    async def challenge(self, ueid: str) -> bytes:
        answer = await self.post(f"{ueid}/challenge")
        assert answer.status == 200, answer
        assert answer.body["trustDomain"] == SITE.name
        nonce: bytes = answer.body["nonce"]
        return nonce

    async def show(self, ueid: str, evidence: bytes, csr: bytes) -> Answer:
        return await self.post(f"{ueid}/evidence", cbor2.dumps([evidence, csr]))

    async def attest(self, thing: Thing, device: Device | None = None, **lies: Any) -> Answer:
        device = device or thing.boot()
        nonce = await self.challenge(thing.ueid)
        return await self.show(thing.ueid, device.evidence(nonce=nonce, **lies), device.csr())

    async def attested(self, **kind: Any) -> Thing:
        """A device that is trusted."""
        thing = self.thing(**kind)
        await self.known(thing)
        answer = await self.attest(thing)
        assert answer.status == 200, answer
        verify_svid(answer.body["chain"], bundles=self.authority.bundles, now=self.clock())
        await self.stands(thing, "Attested", "Attested")
        return thing

    async def attest_anew(self, thing: Thing) -> None:
        """Have a trusted device prove itself again, until that is written: it counts for the oldest leaf of then."""

        def since() -> str:
            return str(self.leaves.status(thing.leaf)["trust"]["attestedTime"])

        before = since()
        await until(lambda: timestamp(self.clock()) > before, lambda: f"still {before}")  # status has whole seconds
        assert (await self.attest(thing)).status == 200
        await until(lambda: since() > before, lambda: f"attested at {since()}")

    async def stands(self, thing: Thing, tier: str, reason: str) -> None:
        await self.leaves.eventually(thing.leaf, tier, reason)

    def use(self, policy: AppraisalPolicy | str | None) -> None:
        """Another policy in the cluster; None takes it away."""
        write_policy(self.leaves.cluster, self.leaves.namespace, policy)

    async def in_force(self, policy: AppraisalPolicy) -> None:
        """Another policy, and the issuer knows it."""
        before = self.policies.current
        self.use(policy)
        await until(lambda: self.policies.current is not before, lambda: "no other policy came")


def write_policy(cluster: Cluster, namespace: str, policy: AppraisalPolicy | str | None) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps/{CONFIG_MAP}"
    if policy is None:
        cluster.api.request("DELETE", path)
        return
    text = policy if isinstance(policy, str) else policy_yaml(policy)
    meta = {"name": CONFIG_MAP, "namespace": namespace}
    cluster.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {KEY: text}}])


@asynccontextmanager
async def issuing(
    kube: Kube,
    leaves: Leaves,
    directory: Path,
    *,
    ttl: timedelta = timedelta(hours=1),
    authority: Authority | None = None,
    catalogs: Sequence[ReferenceValues] = (),
) -> AsyncIterator[Issuer]:
    """Run what is under test until the block ends."""
    clock = Clock()
    authority = authority or await embedded(directory, clock)
    policies = Policies(kube, namespace=leaves.namespace, catalogs=catalogs)
    devices = Devices(kube, policies, clock=clock)
    attestation = Attestation(authority=authority, policies=policies, devices=devices, ttl=ttl, clock=clock)
    app = web.Application()
    app.add_routes(attestation.routes())
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    work = [asyncio.create_task(policies.run()), asyncio.create_task(devices.run())]
    async with aiohttp.ClientSession() as http:
        try:
            await asyncio.wait_for(devices.synced.wait(), 20)
            yield Issuer(
                leaves=leaves,
                policies=policies,
                devices=devices,
                attestation=attestation,
                authority=authority,
                clock=clock,
                url=f"http://127.0.0.1:{runner.addresses[0][1]}",
                http=http,
            )
            assert not any(task.done() for task in work), [task.exception() for task in work if task.done()]
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            await runner.cleanup()


async def embedded(
    directory: Path, clock: Clock, *, kind: type[EmbeddedAuthority] = EmbeddedAuthority
) -> EmbeddedAuthority:
    """A trust domain of its own."""
    store = FileStore(directory / "authority")
    return await kind.open(store, trust_domain=SITE, lifetime=timedelta(days=1), clock=clock)


def changed(policy: AppraisalPolicy, **changes: Any) -> AppraisalPolicy:
    """The policy with other members."""
    said: Mapping[str, Any] = policy.model_dump(by_alias=False) | changes
    return AppraisalPolicy.model_validate(said, by_name=True)
