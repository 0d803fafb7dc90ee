"""A real SPIRE server (1.15 or later) with our plug-ins. Skips without `spire-server` on PATH or in SPIRE_SERVER."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from crds.errors import Retryable, Terminal
from spire.adapters.spire_authority import SpireAuthority
from spire.adapters.spire_server import SpireServer as Calls
from spire.adapters.spire_server import spire_server
from spire.domain.errors import Malformed
from spire.domain.keys import PrivateKey
from spire.domain.spiffe_id import SpiffeId, TrustDomain, device_spiffe_id
from spire.domain.svid import verify_svid
from spire.plugins.agent_attestor import HELLO
from spire.plugins.bindings import Bindings
from spire.proto import spire_pb2 as pb
from spire.register import main as register
from tests.spire.real_spire import DOMAIN, SpireServer, needs_server, running
from tests.spire.support import TAMPERED, Device, boot_inputs, device, firmware_inputs

pytestmark = needs_server
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a server that runs: `api.sock`, `bindings`."""
    server = SpireServer(folder=tmp_path_factory.mktemp("spire"))
    with running(server):
        yield server.folder


def csr(key: PrivateKey, *, uri: SpiffeId | None = None, common_name: str = "somebody else") -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    )
    if uri is not None:
        name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(uri))])
        builder = builder.add_extension(name, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def answering(one: Device) -> Callable[[bytes], asyncio.Future[bytes]]:
    def answer(nonce: bytes) -> asyncio.Future[bytes]:
        evidence: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        evidence.set_result(one.evidence(nonce=nonce))
        return evidence

    return answer


async def attest(server: Calls, one: Device, *, key: PrivateKey | None = None) -> x509.Certificate:
    issued = await server.attest_agent(csr(key or one.own), kind="dice", hello=HELLO, answer=answering(one))
    return x509.load_der_x509_certificate(issued.chain[0])


async def test_two_thousand_who_never_answer_stall_nobody(site: Path) -> None:
    one = device("honest")
    silent = pb.AttestAgentRequest(
        params=pb.AttestAgentParams(
            data=pb.AttestationData(type="dice", payload=HELLO), params=pb.AgentX509SvidParams(csr=csr(one.own))
        )
    )
    async with grpc.aio.insecure_channel(
        f"unix:{site / 'api.sock'}", options=[("grpc.default_authority", "localhost:0")]
    ) as channel:
        attesting = channel.stream_stream(
            "/spire.api.server.agent.v1.Agent/AttestAgent",
            request_serializer=pb.AttestAgentRequest.SerializeToString,
            response_deserializer=pb.AttestAgentResponse.FromString,
        )
        calls = [attesting(None) for _ in range(2000)]
        await asyncio.gather(*(call.write(silent) for call in calls))
        async with spire_server(str(site / "api.sock")) as server, asyncio.timeout(60):
            attested = 0
            while attested < 20:
                try:
                    await attest(server, one)
                except Retryable:  # while they come, each is among the 512 that wait the longest for a moment
                    await asyncio.sleep(0.05)
                else:
                    attested += 1
        for call in calls:
            call.cancel()


async def test_a_device_becomes_an_agent_by_its_evidence(site: Path) -> None:
    one = device()
    async with spire_server(str(site / "api.sock")) as server:
        certificate = await attest(server, one)
        bundles = await server.bundles()
    (common_name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert common_name.value == str(one.claims.ueid)
    assert certificate.public_key() == one.claims.key
    roots = {domain: bundle.roots for domain, bundle in bundles.items()}
    peer = verify_svid(
        [certificate.public_bytes(Encoding.DER)], bundles=roots, now=certificate.not_valid_before_utc + HOUR / 2
    )
    assert peer == DOMAIN.spiffe_id("spire", "agent", "dice", str(one.claims.ueid))


async def test_a_go_between_cannot_have_its_own_key_certified(site: Path) -> None:
    async with spire_server(str(site / "api.sock")) as server:
        with pytest.raises(Terminal, match="names another key"):
            await attest(server, device(), key=device("go-between").own)


async def test_tampered_firmware_gets_nothing(site: Path) -> None:
    tampered = device(layers=(boot_inputs(), firmware_inputs(TAMPERED)))
    async with spire_server(str(site / "api.sock")) as server:
        with pytest.raises(Terminal, match="MeasurementUnknown"):
            await attest(server, tampered)


async def test_the_authority_mints_for_the_key_that_evidence_named(site: Path) -> None:
    one = device("minted")
    wanted = device_spiffe_id(DOMAIN, ueid=one.claims.ueid, application="thermo")
    async with spire_server(str(site / "api.sock")) as server:
        authority = await SpireAuthority.of(server, trust_domain=DOMAIN, bindings=Bindings(site / "bindings"))
        name = str(one.claims.ueid)
        issued = await authority.issue(wanted, csr=csr(one.own, uri=wanted), common_name=name, ttl=HOUR)
        leaf = x509.load_der_x509_certificate(issued.chain[0])
        assert [each.value for each in leaf.subject] == [name]
        assert verify_svid(issued.chain, bundles=authority.bundles, now=leaf.not_valid_before_utc + HOUR / 2) == wanted
        with pytest.raises(Malformed, match="subjectAltName"):
            await authority.issue(wanted, csr=csr(one.own), common_name=name, ttl=HOUR)
        # What an administrator of the socket mints past our issuer is for no device.
        stranger = device("stranger")
        with pytest.raises(Terminal, match="names another key"):
            await server.mint(csr(stranger.own, uri=wanted), ttl=HOUR)


async def test_a_server_of_another_trust_domain_is_refused(site: Path) -> None:
    async with spire_server(str(site / "api.sock")) as server:
        with pytest.raises(Terminal, match=r"other\.test"):
            await SpireAuthority.of(server, trust_domain=TrustDomain("other.test"), bindings=None)


def test_registration_may_be_repeated(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--socket",
        str(site / "api.sock"),
        "--trust-domain",
        str(DOMAIN),
        "--parent",
        f"spiffe://{DOMAIN}/k8s",
    ]
    assert register(arguments) == 0
    assert register(arguments) == 0
    assert register([*arguments, "--node", "edge-1", "--selector", "unix:user:{account}"]) == 0
    said = capsys.readouterr().out
    assert f"spiffe://{DOMAIN}/manager/rear-gateway  k8s:ns:fluidos k8s:sa:rear-gateway" in said
    assert f"spiffe://{DOMAIN}/relay/edge-1  unix:user:relay" in said


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--trust-domain", "UPPER", "--parent", "spiffe://a/b"], "trustDomain"),
        (["--trust-domain", "a", "--parent", "b"], "spiffeID"),
        (["--trust-domain", "a", "--parent", "spiffe://a/b", "--selector", "x"], "selector"),
        (["--trust-domain", "a", "--parent", "spiffe://a/b", "--account", "relay"], "--account"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert register(arguments) == 2
    assert named in capsys.readouterr().err
