"""REAR as a buyer speaks it: one HTTP client for all providers, none of which is trusted.

Every answer is bounded in time and size before it is parsed, redirects are not followed (a provider must not send us
elsewhere), and what cannot be read counts as no answer. Contracts count when who sold them signed them. Errors say
whether a retry helps.
Source: fluidos-project/node, REAR gateway; sensors, contracts and events by docs/rear.md.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel
from yarl import URL

from crds.errors import InvalidField, Retryable, Terminal
from edge_resource_manager.adapters.rear_session import RearSession, peer_of_response
from edge_resource_manager.domain import wire
from edge_resource_manager.domain.matching import printable
from spire.domain.errors import Untrusted
from spire.domain.spiffe_id import SpiffeId

MAX_LIST_BYTES = 8 * 1024 * 1024
MAX_LINE_BYTES = wire.MAX_BODY_BYTES
MAX_ERROR_BYTES = 4096
SILENCE_SECONDS = 25.0
"""How long an event stream may be still: two and a half of its heartbeats."""

_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.]{2,45}\]):(?P<port>[0-9]{1,5})", re.ASCII)

Query = Sequence[tuple[str, str]]
M = TypeVar("M", bound=BaseModel)


class ProviderSilent(Retryable):
    """No usable answer: not reachable, too slow, overloaded, or not REAR what it says."""


class SomebodyElse(ProviderSilent):
    """Where the seller was there is nobody who proves to be it."""


class NotSigned(ProviderSilent):
    """An answer with a contract that its seller did not sign as it stands.

    Attributes:
        contract: what the provider may hold nevertheless.
    """

    def __init__(self, message: str, *, contract: wire.Contract) -> None:
        super().__init__(message)
        self.contract = contract


class ProviderRefused(Terminal):
    """The provider understood and said no."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message, reason="ProviderRefused")
        self.status = status


class NotThere(ProviderRefused):
    """404: no such flavor, transaction or contract, or a provider that does not serve sensors."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Sensor flavors of one provider, and how many entries could not be read."""

    flavors: tuple[wire.Flavor, ...]
    unreadable: tuple[InvalidField, ...] = ()


class RearProvider:
    """One provider over HTTP.

    Args:
        session: the buyer's.
        address: `host:port`, as a KnownCluster has it.
        seconds: limit of every request but the event stream.
        seller: who it has to be; without a name, whoever answers first.

    Attributes:
        seller: who it is, once it has answered; None where nobody proves anything.

    Raises:
        ProviderSilent: the address is none.
    """

    def __init__(self, session: RearSession, address: str, *, seconds: float, seller: SpiffeId | None = None) -> None:
        parts = _ADDRESS.fullmatch(address)
        if parts is None or not 0 < int(parts["port"]) < 65536:
            raise ProviderSilent(f"address {address[:80]!r} is not host:port")
        self._session = session
        self._base = f"{'https' if session.is_secure else 'http'}://{address}/api/v2"
        self.seller = seller
        self._seconds = seconds

    async def sensors(self, query: Query) -> Listing:
        """GET /flavors/sensors; 204 and 404 are providers that have no sensors."""
        return await self._list("/flavors/sensors", query)

    async def potential(self, query: Query) -> Listing:
        """GET /flavors/sensors/potential: what could be made; most providers do not know of such a thing."""
        try:
            return await self._list("/flavors/sensors/potential", query)
        except ProviderRefused:
            return Listing(())

    async def sensor(self, flavor: str) -> wire.Flavor | None:
        """GET /flavors/sensors/{flavor}."""
        try:
            return await self._ask(wire.Flavor, "GET", f"/flavors/sensors/{_segment(flavor)}")
        except NotThere:
            return None

    async def reserve(self, request: wire.ReservationRequest) -> wire.Transaction:
        """POST /reservations; the same buyer, flavor and claim again is the same transaction."""
        return await self._ask(wire.Transaction, "POST", "/reservations", body=request)

    async def purchase(self, transaction: str, request: wire.PurchaseRequest) -> wire.Contract:
        """POST /transactions/{transaction}/purchase; again is the same contract.

        Raises:
            NotSigned: it is not signed by who sold it, or not as it was sent.
        """
        return await self._signed("POST", f"/transactions/{_segment(transaction)}/purchase", body=request)

    async def contract(self, contract: str) -> wire.Contract | None:
        """GET /contracts/{contract}."""
        try:
            return await self._ask(wire.Contract, "GET", f"/contracts/{_segment(contract)}")
        except NotThere:
            return None

    async def configure(self, contract: str, configuration: wire.Configuration) -> wire.Contract:
        """PUT /contracts/{contract}/configuration.

        Raises:
            NotSigned: as for `purchase`.
        """
        return await self._signed("PUT", f"/contracts/{_segment(contract)}/configuration", body=configuration)

    async def end(self, contract: str) -> None:
        """DELETE /contracts/{contract}."""
        try:
            await self._send("DELETE", f"/contracts/{_segment(contract)}")
        except NotThere:
            return

    async def events(self) -> AsyncIterator[wire.Event]:
        """GET /flavors/sensors/events until the provider closes it, falls silent, or sends what is no event.

        Raises:
            ProviderSilent: it ended otherwise than by being closed.
            ProviderRefused: events are not served.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._seconds, sock_read=SILENCE_SECONDS)
        url = URL(f"{self._base}/flavors/sensors/events", encoded=True)
        try:
            async with self._session.http.get(
                url, timeout=timeout, allow_redirects=False, ssl=self._session.tls(self.seller)
            ) as response:
                self._meet(response)
                if response.status != 200:
                    raise await _refusal(response)
                async for line in _lines(response):
                    event = wire.parse_event(line)
                    if event is not None:
                        yield event
        except InvalidField as error:
            raise ProviderSilent(f"unreadable event: {error}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ProviderSilent(f"event stream cut: {self._session.told(error)}") from error

    async def _list(self, path: str, query: Query) -> Listing:
        try:
            body = await self._send("GET", path, query=query, limit=MAX_LIST_BYTES)
        except NotThere:
            return Listing(())
        if not body:
            return Listing(())
        try:
            return Listing(*wire.parse_flavors(body))
        except InvalidField as error:
            raise ProviderSilent(f"unreadable list of flavors: {error}") from error

    async def _signed(self, method: str, path: str, *, body: BaseModel) -> wire.Contract:
        answer = await self._send(method, path, body=body)
        try:
            contract = wire.parse(wire.Contract, answer)
        except InvalidField as error:
            raise ProviderSilent(f"unreadable answer to {method}: {error}") from error
        try:
            signer = self._session.signer(contract.signature or "", wire.loads(answer))
        except Untrusted as error:
            raise NotSigned(f"its contract is not accepted: {error}", contract=contract) from error
        if signer != self.seller:
            raise NotSigned(f"its contract is signed by {signer}, but sold by {self.seller}", contract=contract)
        return contract

    def _meet(self, response: aiohttp.ClientResponse) -> None:
        """From the first answer on it is one and the same seller."""
        peer = peer_of_response(response)
        if self.seller is None:
            self.seller = peer
        elif self._session.is_secure and peer != self.seller:
            raise SomebodyElse(f"it is {peer} now, and was {self.seller}")

    def _failed(self, error: Exception) -> ProviderSilent:
        stranger = self.seller is not None and isinstance(error, aiohttp.ClientConnectorCertificateError)
        return (SomebodyElse if stranger else ProviderSilent)(self._session.told(error))

    async def _ask(self, model: type[M], method: str, path: str, *, body: BaseModel | None = None) -> M:
        answer = await self._send(method, path, body=body)
        try:
            return wire.parse(model, answer)
        except InvalidField as error:
            raise ProviderSilent(f"unreadable answer to {method}: {error}") from error

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: BaseModel | None = None,
        limit: int = wire.MAX_BODY_BYTES,
    ) -> bytes:
        text = "&".join(f"{quote(key, safe='[]')}={quote(value, safe='')}" for key, value in query)
        url = URL(self._base + path + (f"?{text}" if text else ""), encoded=True)
        data = body.model_dump_json(by_alias=True, exclude_none=True) if body else None
        headers = {"Content-Type": "application/json"} if body else {}
        timeout = aiohttp.ClientTimeout(total=self._seconds)
        try:
            async with self._session.http.request(
                method,
                url,
                data=data,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                ssl=self._session.tls(self.seller),
            ) as response:
                self._meet(response)
                if not 200 <= response.status < 300:
                    raise await _refusal(response)
                return await _bounded(response, limit=limit)
        except TimeoutError as error:
            raise ProviderSilent(f"no answer within {self._seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._failed(error) from error


async def _bounded(response: aiohttp.ClientResponse, *, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > limit:
            raise ProviderSilent(f"an answer of more than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines that are not blank. aiohttp's own reader answers a line that is too long with an error of its parser."""
    rest = b""
    async for part in response.content.iter_any():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
        if len(rest) > MAX_LINE_BYTES:
            raise ProviderSilent(f"an event of more than {MAX_LINE_BYTES} bytes")


async def _refusal(response: aiohttp.ClientResponse) -> ProviderSilent | ProviderRefused:
    """What an error answer means; its problem's detail, if there is one that can be read."""
    body = await response.content.read(MAX_ERROR_BYTES)
    try:
        detail = wire.parse(wire.Problem, body).detail
    except InvalidField:
        detail = body.decode(errors="replace")
    detail = printable(" ".join(detail.split())[:200])
    message = f"HTTP {response.status}" + (f": {detail}" if detail else "")
    status = response.status
    if status == 429 or status >= 500 or status < 400:
        return ProviderSilent(message)
    return (NotThere if status == 404 else ProviderRefused)(message, status=status)


def _segment(name: str) -> str:
    """One path segment, whatever a provider called it."""
    if name in {".", ".."}:
        raise ProviderSilent(f"an id that is a path: {name}")
    return quote(name, safe="")
