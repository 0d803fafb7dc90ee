"""A real SPIRE agent (1.15 or later) whose node shows DICE evidence, and our processes as its workloads."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from spire.domain.entitlement import MANAGERS
from spire.domain.svid import verify_svid
from spire.identity import Identity
from spire.register import main as register
from spire.workload import identity_of
from tests.spire.plugins.test_attestor import POLICY
from tests.spire.real_spire import DOMAIN, SpireAgent, SpireServer, needs_agent, running
from tests.spire.support import GOOD, device

pytestmark = needs_agent


@pytest.fixture
def server(tmp_path: Path) -> SpireServer:
    return SpireServer(folder=tmp_path / "s", settings='agent_ttl = "24s"\n  default_x509_svid_ttl = "20s"')


@pytest.fixture
def agent(server: SpireServer, tmp_path: Path) -> Iterator[SpireAgent]:
    one = SpireAgent(server=server, folder=tmp_path / "a")
    with running(server, one):
        yield one


def present(agent: SpireAgent) -> x509.Certificate:
    """The agent's SVID."""
    stored = orjson.loads((agent.folder / "agent-data.json").read_bytes())["svid"]
    return x509.load_pem_x509_certificate(base64.b64decode(stored[0]))


def slot(agent: SpireAgent) -> str:
    """Where the key of the agent's SVID is."""
    keys = orjson.loads((agent.folder / "keys.json").read_bytes())["keys"]
    wanted = present(agent).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    (found,) = (name for name, key in keys.items() if public(key) == wanted)
    return str(found)


def public(key: str) -> bytes:
    secret = load_der_private_key(base64.b64decode(key), None)
    return secret.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def await_another(agent: SpireAgent, than: x509.Certificate) -> None:
    agent.child.wait_until(lambda: present(agent) != than, what="new SVID", limit=60)


def test_an_agent_shows_fresh_evidence_for_each_svid_until_the_policy_refuses_it(
    server: SpireServer, agent: SpireAgent
) -> None:
    (listed,) = server.json("agent", "list")["agents"]
    assert listed["attestation_type"] == "dice"
    assert listed["can_reattest"]
    assert {"type": "dice", "value": f"measurement:{GOOD.hex()}"} in listed["selectors"]
    ueid = device(agent.seed).claims.ueid
    assert present(agent).subject.rfc4514_string() == f"CN={ueid}"

    slots = [slot(agent)]
    for restarted in (True, False):
        before = present(agent)
        if restarted:
            server.stop()
            assert "Failed to deinitialize plugin" not in server.log()
            server.start()
        await_another(agent, before)
        slots.append(slot(agent))
    assert slots == ["agent-svid-A", "agent-svid-B", "agent-svid-A"]

    server.write_policy({**POLICY, "revoked": [str(ueid)]})
    server.reload()
    last = present(agent)
    # It ends with its SVID, and no new one came.
    assert agent.child.wait(limit=60) == 1
    assert time.time() >= last.not_valid_after_utc.timestamp() - 1
    assert f"Revoked: device {ueid} is revoked" in agent.log()


async def test_our_processes_get_their_identity_from_an_agent_and_cannot_tell(agent: SpireAgent) -> None:
    server = agent.server
    asked = asyncio.create_task(_first_two(agent))
    # It waits for its entry: SPIRE refuses whoever has none.
    wanted = [
        *("--socket", str(server.socket), "--trust-domain", str(DOMAIN), "--parent", str(agent.spiffe_id)),
        *("--selector", f"unix:uid:{os.getuid()}", "--selector", "unix:gid:" + str(os.getgid())),
    ]
    assert await asyncio.to_thread(register, wanted) == 0
    first, second = await asked
    names = [str(each.svid.spiffe_id) for each in (first, second)]
    # Every manager of this machine has the same selectors here: one of them it is, and that it stays.
    assert names[0] in {f"spiffe://{DOMAIN}/manager/{account}" for account in MANAGERS}
    assert names[0] == names[1]
    assert first.svid.key != second.svid.key
    verify_svid(second.svid.chain, bundles=second.bundles, now=datetime.now(UTC))


async def _first_two(agent: SpireAgent) -> tuple[Identity, Identity]:
    """The identity that comes first, and the one that follows when that gets old."""
    async with asyncio.timeout(90), identity_of(agent.identity_settings) as source:
        assert source is not None
        first, renewed = source.current, asyncio.Event()
        source.on_change(lambda _: renewed.set())
        await renewed.wait()
        return first, source.current
