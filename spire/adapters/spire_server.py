"""A SPIRE server over its socket: certificates by MintX509SVID, trust bundles, agents by AttestAgent, entries.

Whoever may open the socket is SPIRE's administrator and may mint any workload ID of the trust domain; our
CredentialComposer narrows that down for devices (`spire.plugins.composer`), if it knows what evidence named.
Source: spire-api-sdk, server/{svid,bundle,agent,entry}/v1.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc
import grpc.aio
import structlog

from crds.errors import InvalidField, Retryable, Terminal
from spire.domain.bundle import Bundle
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.issuer.authority import Issued
from spire.proto import spire_pb2 as pb

log = structlog.get_logger(__name__)

SECONDS: Final = 5.0
ATTEST_SECONDS: Final = 30.0
PAGE: Final = 100
MAX_MESSAGE_BYTES: Final = 8 << 20

_AGAIN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,  # not by us: a plug-in in a crowd lets calls fall
}
_ALREADY_EXISTS, _NOT_FOUND = 6, 5


class SpireServer:
    """Calls of one server.

    Args:
        channel: to its socket.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._left_out: dict[str, str] = {}

    async def mint(self, csr: bytes, *, ttl: timedelta) -> Issued:
        """A certificate for a CSR, whose one URI SAN is the ID.

        Raises:
            Terminal: the server, or a plug-in of it, refuses.
            Retryable: it does not answer.
        """
        request = pb.MintX509SvidRequest(csr=csr, ttl=int(ttl.total_seconds()))
        answer = await self._call("svid.v1.SVID", "MintX509SVID", request, pb.MintX509SvidResponse)
        return _issued(answer.svid)

    async def bundles(self) -> dict[TrustDomain, Bundle]:
        """Those of its own trust domain and of the ones that it is federated with and that we can use.

        Raises:
            Terminal, Retryable: as `mint`.
        """
        own = _bundle(await self._call("bundle.v1.Bundle", "GetBundle", pb.Empty(), pb.Bundle))
        found = {own.trust_domain: own}
        token = ""
        while True:
            page = await self._call(
                "bundle.v1.Bundle",
                "ListFederatedBundles",
                pb.ListFederatedBundlesRequest(page_size=PAGE, page_token=token),
                pb.ListFederatedBundlesResponse,
            )
            for told in page.bundles:
                try:
                    bundle = _bundle(told)
                except InvalidField as error:
                    self._leave_out(told.trust_domain, str(error))
                else:
                    found[bundle.trust_domain] = bundle
            token = page.next_page_token
            if not token:
                return found

    def _leave_out(self, name: str, why: str) -> None:
        """SPIRE federates with domains that have keys for JWT only, or more roots than we take."""
        if self._left_out.get(name) != why:
            self._left_out[name] = why
            log.warning("federated trust domain left out", trust_domain=name, error=why)

    async def attest_agent(
        self, csr: bytes, *, kind: str, hello: bytes, answer: Callable[[bytes], Awaitable[bytes]]
    ) -> Issued:
        """Be the go-between of a device that becomes an agent of SPIRE's: its CSR up, nonces down, evidence up.

        Args:
            csr: PKCS #10 in DER, of the device's key.
            kind: name of the attestor: `dice`.
            hello: what it wants first.
            answer: gives the device's answer to a challenge.

        Raises:
            Terminal, Retryable: as `mint`.
        """
        data = pb.AttestationData(type=kind, payload=hello)
        params = pb.AttestAgentParams(data=data, params=pb.AgentX509SvidParams(csr=csr))
        method = self._channel.stream_stream(
            _path("agent.v1.Agent", "AttestAgent"),
            request_serializer=pb.AttestAgentRequest.SerializeToString,
            response_deserializer=pb.AttestAgentResponse.FromString,
        )
        call = method(None, timeout=ATTEST_SECONDS)
        try:
            await call.write(pb.AttestAgentRequest(params=params))
            while True:
                response: Any = await call.read()
                if not isinstance(response, pb.AttestAgentResponse):
                    raise Retryable("SPIRE ended the attestation without a result")
                if response.WhichOneof("step") == "result":
                    return _issued(response.result.svid)
                evidence = await answer(response.challenge)
                await call.write(pb.AttestAgentRequest(challenge_response=evidence))
        except grpc.aio.AioRpcError as error:
            raise _told(error) from error
        finally:
            call.cancel()

    async def put_entry(self, entry: Entry) -> None:
        """Create an entry, or make the one of its ID what it should be.

        Raises:
            Terminal, Retryable: as `mint`.
        """
        wanted = entry.message()
        created = await self._call(
            "entry.v1.Entry",
            "BatchCreateEntry",
            pb.BatchCreateEntryRequest(entries=[wanted]),
            pb.BatchCreateEntryResponse,
        )
        status = created.results[0].status
        if status.code == _ALREADY_EXISTS:
            wanted.id = created.results[0].entry.id or wanted.id
            updated = await self._call(
                "entry.v1.Entry",
                "BatchUpdateEntry",
                pb.BatchUpdateEntryRequest(entries=[wanted]),
                pb.BatchUpdateEntryResponse,
            )
            status = updated.results[0].status
        if status.code:
            raise Terminal(f"entry {entry.spiffe_id}: {status.message}", reason="EntryRefused")

    async def _call(self, service: str, name: str, request: Any, answer: Any) -> Any:
        method = self._channel.unary_unary(
            _path(service, name),
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            return await method(request, timeout=SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _told(error) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A registration entry: who gets which ID.

    Attributes:
        spiffe_id: what is given.
        parent: the agent, or the alias of agents, that gives it.
        selectors: what must hold of a workload, each `type:value`.
        ttl: of the certificates; the server's default where absent.
        federates_with: whose bundles are given with it.
    """

    spiffe_id: SpiffeId
    parent: SpiffeId
    selectors: tuple[str, ...]
    ttl: timedelta | None = None
    federates_with: tuple[TrustDomain, ...] = ()

    def message(self) -> Any:
        """As SPIRE has it. The ID is derived, so that a repeated registration finds the first."""
        pairs = [selector.partition(":") for selector in self.selectors]
        for kind, colon, value in pairs:
            if not (kind and colon and value):
                raise InvalidField(field="selector", value=f"{kind}{colon}{value}", expected="type:value")
        return pb.Entry(
            id="fluidos-edge" + self.spiffe_id.path.replace("/", ".").lower(),
            spiffe_id=_id(self.spiffe_id),
            parent_id=_id(self.parent),
            selectors=[pb.Selector(type=kind, value=value) for kind, _, value in pairs],
            x509_svid_ttl=int(self.ttl.total_seconds()) if self.ttl else 0,
            federates_with=[str(domain) for domain in self.federates_with],
        )


@asynccontextmanager
async def spire_server(socket: str) -> AsyncIterator[SpireServer]:
    """A server at its UNIX socket (`/run/spire-server/private/api.sock`)."""
    address = "unix:" + socket.removeprefix("unix://").removeprefix("unix:")
    options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.default_authority", "localhost:0")]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield SpireServer(channel)


def _bundle(told: Any) -> Bundle:
    return Bundle(
        trust_domain=TrustDomain(told.trust_domain),
        roots=tuple(authority.asn1 for authority in told.x509_authorities),
        sequence=told.sequence_number,
        refresh_hint=timedelta(seconds=told.refresh_hint) if told.refresh_hint > 0 else None,
    )


def _issued(svid: Any) -> Issued:
    if not svid.cert_chain:
        raise Retryable("SPIRE answered without a certificate")
    return Issued(chain=tuple(svid.cert_chain), expires=datetime.fromtimestamp(svid.expires_at, UTC))


def _told(error: grpc.aio.AioRpcError) -> Retryable | Terminal:
    message = f"SPIRE: {error.code().name}: {error.details()}"
    return Retryable(message) if error.code() in _AGAIN else Terminal(message, reason="SpireRefused")


def _path(service: str, name: str) -> str:
    return f"/spire.api.server.{service}/{name}"


def _id(spiffe_id: SpiffeId) -> Any:
    return pb.SpiffeId(trust_domain=str(spiffe_id.trust_domain), path=spiffe_id.path)
