"""The NodeAttestor `dice`, both sides, driven as SPIRE drives them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from crds.errors import InvalidField
from spire.plugins import attestor
from spire.plugins.agent_attestor import HELLO, new_key
from spire.plugins.bindings import fingerprint
from spire.proto import spire_pb2 as pb
from tests.spire.plugins.host import Hosted, hosted
from tests.spire.support import ACME, BOOT, GOOD, NOW, TAMPERED, Device, boot_inputs, device, factory, firmware_inputs

POLICY = {
    "manufacturers": [{"name": "acme", "root": ACME.certificate.public_bytes(Encoding.PEM).decode()}],
    "boot": [{"measurement": BOOT.hex()}],
    "firmware": [{"measurement": GOOD.hex(), "application": "thermo"}],
}


@asynccontextmanager
async def server(folder: Path, **settings: object) -> AsyncIterator[Hosted]:
    said = {"policy": POLICY, "bindings": str(folder / "bindings"), **settings}
    async with hosted("server-attestor", kind="NodeAttestor", temporary=folder) as plugin:
        await plugin.configure(orjson.dumps(said).decode())
        yield plugin


async def challenge(plugin: Hosted) -> tuple[Any, bytes]:
    """Say hello on a new stream."""
    stream = plugin.attest()
    await stream.write(pb.AttestRequest(payload=HELLO))
    answer: Any = await stream.read()
    return stream, answer.challenge


async def refusal(stream: Any) -> grpc.aio.AioRpcError:
    """How a stream ends instead of with an answer."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stream.read()
    return refused.value


async def attested(plugin: Hosted, one: Device, **claims: object) -> Any:
    stream, nonce = await challenge(plugin)
    await stream.write(pb.AttestRequest(challenge_response=one.evidence(nonce=nonce, **claims)))
    answer = await stream.read()
    return answer.agent_attributes


async def test_the_handshake_is_one_line_and_the_socket_is_private(tmp_path: Path) -> None:
    async with server(tmp_path) as plugin:
        core, app, network, address, kind, rest = plugin.handshake.split("|")
        assert (core, app, network, kind, rest) == ("1", "1", "unix", "grpc", "\n")
        assert Path(address).parent.stat().st_mode & 0o077 == 0
        assert plugin.services == [
            "spire.plugin.server.nodeattestor.v1.NodeAttestor",
            "spire.service.common.config.v1.Config",
        ]
        assert await plugin.shut_down() == 0
        assert not Path(address).parent.exists()


async def test_a_person_who_starts_it_is_told_who_does(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "spire.plugins",
        "composer",
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert (process.returncode, output) == (1, b"")
    assert b"SPIRE starts it" in errors


async def test_evidence_becomes_an_agent_id_with_what_is_proven_as_selectors(tmp_path: Path) -> None:
    one = device()
    async with server(tmp_path) as plugin:
        attributes = await attested(plugin, one)
    assert attributes.spiffe_id == f"spiffe://devices.test/spire/agent/dice/{one.claims.ueid}"
    assert attributes.can_reattest
    assert set(attributes.selector_values) == {
        f"ueid:{one.claims.ueid}",
        "manufacturer:acme",
        "app:thermo",
        f"measurement:{GOOD.hex()}",
        "mode:normal",
        "version:1.2",
        "counter:7",
    }
    (file,) = (tmp_path / "bindings").iterdir()
    assert orjson.loads(file.read_bytes())["key"] == fingerprint(one.claims.key)


@pytest.mark.parametrize(
    ("one", "claims", "named"),
    [
        (device(layers=None, maker=factory(seed="another root")), {}, "BadSignature"),
        (
            device(layers=(boot_inputs(), firmware_inputs(TAMPERED))),
            {},
            "MeasurementUnknown",
        ),
        (device(), {"measurement": TAMPERED}, "ClaimContradicted"),
    ],
)
async def test_what_is_not_believed_gets_no_id(
    tmp_path: Path, one: Device, claims: dict[str, object], named: str
) -> None:
    async with server(tmp_path) as plugin:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await attested(plugin, one, **claims)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert named in (refused.value.details() or "")
    assert not list((tmp_path / "bindings").iterdir())


async def test_evidence_that_cannot_be_noted_is_put_off(tmp_path: Path) -> None:
    async with server(tmp_path) as plugin:
        shutil.rmtree(tmp_path / "bindings")
        with pytest.raises(grpc.aio.AioRpcError, match="cannot be written") as put_off:
            await attested(plugin, device())
        assert put_off.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_nonce_is_answered_on_its_own_stream_only(tmp_path: Path) -> None:
    one = device()
    async with server(tmp_path) as plugin:
        _, foreign = await challenge(plugin)
        stream, _ = await challenge(plugin)
        await stream.write(pb.AttestRequest(challenge_response=one.evidence(nonce=foreign)))
        assert "NonceRefused" in str((await refusal(stream)).details())


@pytest.mark.parametrize(
    "request_",
    [
        pb.AttestRequest(),
        pb.AttestRequest(payload=b""),
        pb.AttestRequest(payload=b"x" * (attestor.MAX_PAYLOAD + 1)),
        pb.AttestRequest(challenge_response=b"too early"),
    ],
)
async def test_steps_out_of_order_or_size_are_named(tmp_path: Path, request_: Any) -> None:
    async with server(tmp_path) as plugin:
        stream = plugin.attest()
        await stream.write(request_)
        assert (await refusal(stream)).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_callers_that_never_answer_stall_nobody(tmp_path: Path) -> None:
    one = device()
    async with server(tmp_path, answerSeconds=60) as plugin:
        silent = [plugin.attest() for _ in range(attestor.MAX_OPEN + 100)]
        for number, stream in enumerate(silent):
            if number % 2:
                # It may have lost its place before: grpc tells by the second where the status is there already.
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await stream.write(pb.AttestRequest(payload=HELLO))
        async with asyncio.timeout(30):
            for _ in range(5):
                assert (await attested(plugin, one)).can_reattest
            # The longest waiting gave their places up.
            assert await silent[0].code() is grpc.StatusCode.DEADLINE_EXCEEDED
        for stream in silent:
            stream.cancel()


async def test_a_challenge_that_is_not_answered_in_time_ends(tmp_path: Path) -> None:
    async with server(tmp_path, answerSeconds=1) as plugin:
        stream, _ = await challenge(plugin)
        assert (await refusal(stream)).code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_new_policy_counts_for_streams_that_are_open(tmp_path: Path) -> None:
    one = device()
    async with server(tmp_path) as plugin:
        stream, nonce = await challenge(plugin)
        revoked = {**POLICY, "revoked": [str(one.claims.ueid)]}
        await plugin.configure(orjson.dumps({"policy": revoked, "bindings": str(tmp_path / "bindings")}).decode())
        await stream.write(pb.AttestRequest(challenge_response=one.evidence(nonce=nonce)))
        assert "Revoked" in str((await refusal(stream)).details())


async def test_a_wrong_configuration_leaves_the_one_in_force(tmp_path: Path) -> None:
    async with server(tmp_path) as plugin:
        with pytest.raises(grpc.aio.AioRpcError, match="manufacturers"):
            await plugin.configure('{"policy": {"manufacturers": 1}, "bindings": "/tmp/x"}')
        assert (await attested(plugin, device())).can_reattest


def stored(**slots: ec.EllipticCurvePrivateKey) -> bytes:
    """A disk KeyManager's file."""
    packed = {
        name.replace("_", "-"): base64.b64encode(
            key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        ).decode()
        for name, key in slots.items()
    }
    return orjson.dumps({"keys": packed})


def stored_svid(key: ec.EllipticCurvePrivateKey) -> bytes:
    """An agent's `agent-data.json`: base64 of PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(hours=1))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    return orjson.dumps({"svid": [base64.b64encode(certificate).decode()], "bundle": []})


def test_the_new_key_is_the_one_that_is_not_in_the_svid() -> None:
    one, two = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    one_spki = one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    two_spki = two.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert new_key(keys_json=stored(agent_svid_A=one), agent_json=None) == one_spki
    both = stored(agent_svid_A=one, agent_svid_B=two)
    assert new_key(keys_json=both, agent_json=b'{"svid": null}') == one_spki
    assert new_key(keys_json=both, agent_json=stored_svid(one)) == two_spki
    assert new_key(keys_json=both, agent_json=stored_svid(two)) == one_spki


@pytest.mark.parametrize(
    "text", [None, b"", b"{}", b"[]", b"\xff", b'{"keys": {"agent-svid-A": "AAAA"}}', b'{"keys": 7}']
)
def test_a_key_file_of_another_shape_is_named(text: bytes | None) -> None:
    with pytest.raises(InvalidField, match=r"keys\.json"):
        new_key(keys_json=text, agent_json=None)


async def test_the_agent_side_answers_with_evidence_for_the_new_key(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "keys.json").write_bytes(stored(agent_svid_A=key))
    program = tmp_path / "evidence"
    program.write_text("#!/bin/sh\nprintf evidence:\ncat\n")
    program.chmod(0o755)
    async with hosted("agent-attestor", kind="NodeAttestor", temporary=tmp_path) as plugin:
        await plugin.configure(orjson.dumps({"evidence": [str(program)], "dataDir": str(tmp_path)}).decode())
        stream: Any = plugin.aid()
        assert (await stream.read()).payload == HELLO
        await stream.write(pb.Challenge(challenge=bytes(32)))
        answer = (await stream.read()).challenge_response
        asked = orjson.loads(answer.removeprefix(b"evidence:"))
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert asked == {"nonce": "00" * 32, "key": base64.b64encode(spki).decode()}
        program.write_text("#!/bin/sh\nexit 3\n")
        await stream.write(pb.Challenge(challenge=bytes(32)))
        assert "exit code 3" in str((await refusal(stream)).details())


async def test_a_plug_in_dies_with_the_server_that_started_it(tmp_path: Path) -> None:
    """Where the kernel does not see to it."""
    script = (
        "import os,subprocess,sys;"
        "p=subprocess.Popen([sys.executable,'-m','spire.plugins','composer'],stdout=subprocess.PIPE);"
        "p.stdout.readline();print(p.pid,flush=True)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "CredentialComposer": "CredentialComposer", "TMPDIR": str(tmp_path)},
    )
    output, _ = await process.communicate()
    async with asyncio.timeout(20):
        while running(int(output)):  # noqa: ASYNC110 - it is nobody's child any more
            await asyncio.sleep(0.1)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
