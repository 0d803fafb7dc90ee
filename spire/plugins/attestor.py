"""SPIRE's NodeAttestor `dice`, server side: nonce out, evidence in, and an agent ID with what is proven as selectors.

Anybody may call a server's AttestAgent, and SPIRE sets no limit to how long they take, so this does: a caller that does
not answer holds nothing but a place, and the longest waiting gives its place up when all are taken.
Source: spire-plugin-sdk, server/nodeattestor/v1.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import grpc
from pydantic import Field

from crds.errors import InvalidField, Retryable, Terminal
from crds.models.appraisal import AppraisalPolicy
from crds.models.base import Model, validate
from spire.domain import eat
from spire.domain.appraisal import Appraisal
from spire.domain.nonces import NONCE_SIZE
from spire.domain.site import Site, site_of
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.domain.verdict import Attested, Refused
from spire.plugins.bindings import Bindings
from spire.plugins.host import Context, Handlers, log, stream
from spire.plugins.settings import parse_json
from spire.proto import spire_pb2 as pb

NAME: Final = "dice"
MAX_OPEN: Final = 512
MAX_PAYLOAD: Final = 64


class AttestorSettings(Model):
    """`plugin_data_file` of the server's plug-in."""

    policy: AppraisalPolicy
    """What the ConfigMap of the embedded issuer has: manufacturers, references, what is accepted."""
    bindings: Annotated[str, Field(min_length=1, max_length=1024)]
    """Folder that is shared with the CredentialComposer."""
    answer_seconds: Annotated[int, Field(ge=1, le=60)] = 10
    """How long a caller may take to answer the challenge."""


class ServerAttestor:
    """See `host.Plugin`."""

    type = "NodeAttestor"
    service = "spire.plugin.server.nodeattestor.v1.NodeAttestor"

    def __init__(self) -> None:
        self._trust_domain: TrustDomain | None = None
        self._site: Site | None = None
        self._bindings: Bindings | None = None
        self._seconds = 10.0
        self._open: OrderedDict[object, asyncio.Timeout] = OrderedDict()

    def handlers(self) -> Handlers:
        """See `host.Plugin`."""
        return {"Attest": stream(self._attest, pb.AttestRequest)}

    def configure(self, *, trust_domain: str, text: str) -> Callable[[], None]:
        """See `host.Plugin`."""
        settings = validate(AttestorSettings, parse_json(text), field="plugin_data_file")
        domain = TrustDomain(trust_domain)
        site = site_of(settings.policy)
        bindings = Bindings(Path(settings.bindings))

        def apply() -> None:
            self._trust_domain, self._site, self._bindings = domain, site, bindings
            self._seconds = float(settings.answer_seconds)

        return apply

    async def _attest(self, requests: AsyncIterator[Any], context: Context) -> None:
        until = asyncio.get_running_loop().time() + self._seconds
        try:
            await self._hear(requests, "payload", limit=MAX_PAYLOAD, until=until)
            nonce = secrets.token_bytes(NONCE_SIZE)
            await context.write(pb.AttestResponse(challenge=nonce))
            evidence = await self._hear(requests, "challenge_response", limit=eat.MAX_TOKEN, until=until)
            attributes = self._judge(evidence, nonce=nonce)
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED, "the challenge was not answered in time, or too many ask at a time"
            )
        except InvalidField as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except Terminal as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{error.reason}: {error}")
        except Retryable as error:
            log("error", "evidence is good, and no use", error=error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        await context.write(attributes)

    async def _hear(self, requests: AsyncIterator[Any], name: str, *, limit: int, until: float) -> bytes:
        """What the caller says next, if it says so in time and keeps its place until then."""
        async with asyncio.timeout_at(until) as place:
            if len(self._open) >= MAX_OPEN:
                _, longest = self._open.popitem(last=False)
                longest.reschedule(asyncio.get_running_loop().time())
            self._open[place] = place
            try:
                return await _next(requests, name, limit=limit)
            finally:
                self._open.pop(place, None)

    def _judge(self, evidence: bytes, *, nonce: bytes) -> Any:
        """From evidence to SPIRE's attributes.

        Raises:
            Terminal: it is not believed, or the policy does not want it.
            Retryable: what it says cannot be noted.
        """
        if self._site is None or self._bindings is None or self._trust_domain is None:
            raise InvalidField(field="configuration", value=None, expected="plugin_data_file with a policy")
        token = eat.parse(evidence)
        appraisal = Appraisal(manufacturers=self._site.manufacturers, policy=self._site, now=datetime.now(UTC))
        appraisal.accept_chain(token.chain)
        appraisal.accept_evidence(token, nonce=nonce)
        match appraisal.verdict():
            case Refused() as refused:
                raise Terminal(refused.message, reason=refused.reason)
            case Attested() as device:
                spiffe_id = agent_id(self._trust_domain, device)
                self._bindings.bind(spiffe_id, key=device.key, ueid=device.ueid)
                log("info", "attested", spiffe_id=spiffe_id, application=device.application)
                return pb.AttestResponse(
                    agent_attributes=pb.AgentAttributes(
                        spiffe_id=str(spiffe_id),
                        selector_values=selectors(device),
                        # Not an attestation for life: new evidence at every renewal.
                        can_reattest=True,
                    )
                )


def agent_id(trust_domain: TrustDomain, device: Attested) -> SpiffeId:
    """SPIRE keeps these IDs for what its attestors attest."""
    return trust_domain.spiffe_id("spire", "agent", NAME, str(device.ueid))


def selectors(device: Attested) -> list[str]:
    """What entries can select by, as `dice:<value>`."""
    firmware = device.firmware
    component = firmware.component
    found = [
        f"ueid:{device.ueid}",
        f"manufacturer:{device.manufacturer}",
        f"app:{device.application}",
        f"measurement:{firmware.measurement.hex()}",
        f"mode:{firmware.mode.name.lower()}",
    ]
    if component.version is not None:
        found.append(f"version:{component.version}")
    if component.security_counter is not None:
        found.append(f"counter:{component.security_counter}")
    return found


async def _next(requests: AsyncIterator[Any], name: str, *, limit: int) -> bytes:
    async for request in requests:
        if request.WhichOneof("request") != name:
            raise InvalidField(field="request", value=request.WhichOneof("request"), expected=name)
        data: bytes = getattr(request, name)
        if not 0 < len(data) <= limit:
            raise InvalidField(field=name, value=f"{len(data)} bytes", expected=f"1 to {limit} bytes")
        return data
    raise InvalidField(field="request", value="end of stream", expected=name)
