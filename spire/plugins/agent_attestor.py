"""SPIRE's NodeAttestor `dice`, agent side: for a node that can show DICE evidence of itself.

The evidence has to name the key that the agent wants certified, and SPIRE does not tell a plug-in which one that is. It
has written it by then: the disk KeyManager keeps two slots in turns, and the new key is in the one that does not hold
the key of the agent's present SVID.
Source: spire-plugin-sdk, agent/nodeattestor/v1; spire, pkg/agent: plugin/keymanager/svidkeymanager.go, storage.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, Final

import grpc
import orjson
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
)
from pydantic import Field

from crds.errors import EdgeError, InvalidField, Retryable
from crds.models.base import Model, validate
from spire.domain import eat
from spire.domain.nonces import NONCE_SIZE
from spire.plugins.host import Context, Handlers, stream
from spire.plugins.settings import parse_json
from spire.proto import spire_pb2 as pb

HELLO: Final = b"dice/1"
SLOTS: Final = ("agent-svid-A", "agent-svid-B")

Words = Annotated[str, Field(min_length=1, max_length=1024)]


class AgentSettings(Model):
    """`plugin_data_file` of the agent's plug-in."""

    evidence: Annotated[tuple[Words, ...], Field(min_length=1, max_length=32)]
    """Command and arguments. It gets `{"nonce": hex, "key": base64 of the key's SubjectPublicKeyInfo}` on standard
    input and answers with the evidence (a COSE_Sign1 EAT whose `cnf` is that key) on standard output."""
    data_dir: Words
    """The agent's `data_dir`, with `agent-data.json`."""
    keys_dir: Words | None = None
    """`directory` of the disk KeyManager, with `keys.json`; `data_dir` where absent."""
    evidence_seconds: Annotated[int, Field(ge=1, le=60)] = 8


class AgentAttestor:
    """See `host.Plugin`."""

    type = "NodeAttestor"
    service = "spire.plugin.agent.nodeattestor.v1.NodeAttestor"

    def __init__(self) -> None:
        self._settings: AgentSettings | None = None

    def handlers(self) -> Handlers:
        """See `host.Plugin`."""
        return {"AidAttestation": stream(self._aid, pb.Challenge)}

    def configure(self, *, trust_domain: str, text: str) -> Callable[[], None]:  # noqa: ARG002 - the server's alone
        """See `host.Plugin`."""
        settings = validate(AgentSettings, parse_json(text), field="plugin_data_file")

        def apply() -> None:
            self._settings = settings

        return apply

    async def _aid(self, challenges: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        yield pb.PayloadOrChallengeResponse(payload=HELLO)
        try:
            async for challenge in challenges:
                evidence = await self._answer(challenge.challenge)
                yield pb.PayloadOrChallengeResponse(challenge_response=evidence)
        except EdgeError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))

    async def _answer(self, nonce: bytes) -> bytes:
        settings = self._settings
        if settings is None:
            raise InvalidField(field="configuration", value=None, expected="plugin_data_file")
        if len(nonce) != NONCE_SIZE:
            raise InvalidField(field="challenge", value=f"{len(nonce)} bytes", expected=f"{NONCE_SIZE} bytes")
        data, keys = Path(settings.data_dir), Path(settings.keys_dir or settings.data_dir)
        key = new_key(keys_json=_read(keys / "keys.json"), agent_json=_read(data / "agent-data.json"))
        asked = orjson.dumps({"nonce": nonce.hex(), "key": base64.b64encode(key).decode()})
        return await _ask(settings.evidence, asked, seconds=settings.evidence_seconds)


def new_key(*, keys_json: bytes | None, agent_json: bytes | None) -> bytes:
    """The key that the agent is about to have certified, as SubjectPublicKeyInfo.

    Args:
        keys_json: the disk KeyManager's file.
        agent_json: the agent's stored SVID; None before the first.

    Raises:
        InvalidField: the files do not say it.
    """
    keys = _keys(keys_json)
    present = _present(agent_json)
    found = [keys[slot] for slot in SLOTS if slot in keys and keys[slot] != present]
    # Without an SVID the agent begins with the first slot, whatever an earlier life left in the second.
    if not found or (len(found) > 1 and present is not None):
        raise InvalidField(
            field="keys.json", value=sorted(keys), expected="the key of a new SVID beside that of the present one"
        )
    return found[0]


def _keys(keys_json: bytes | None) -> dict[str, bytes]:
    try:
        stored = orjson.loads(keys_json or b"{}").get("keys", {})
        return {
            name: load_der_private_key(base64.b64decode(stored[name]), None)
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            for name in SLOTS
            if name in stored
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidField(field="keys.json", value="its content", expected="SPIRE's disk KeyManager's") from error


def _present(agent_json: bytes | None) -> bytes | None:
    try:
        chain = orjson.loads(agent_json or b"{}").get("svid") or []
        if not chain:
            return None
        leaf = x509.load_pem_x509_certificate(base64.b64decode(chain[0]))
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidField(field="agent-data.json", value="its content", expected="a SPIRE agent's") from error
    return leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidField(field=path.name, value=str(path), expected=f"a readable file ({error.strerror})") from error


async def _ask(command: tuple[str, ...], asked: bytes, *, seconds: float) -> bytes:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise InvalidField(field="evidence", value=command[0], expected=f"a program ({error.strerror})") from error
    try:
        async with asyncio.timeout(seconds):
            output, _ = await process.communicate(asked)
    except TimeoutError as error:
        raise Retryable(f"{command[0]} did not answer within {seconds:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0 or not 0 < len(output) <= eat.MAX_TOKEN:
        raise InvalidField(
            field="evidence",
            value=f"exit code {process.returncode}, {len(output)} bytes",
            expected=f"exit code 0 and 1 to {eat.MAX_TOKEN} bytes",
        )
    return output
