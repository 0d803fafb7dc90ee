"""A provider that speaks REAR, keeps state, and misbehaves when it is told to.

A fault is set by operation (`list`, `sensor`, `reserve`, `purchase`, `contract`, `configure`, `end`, `events`, or `*`)
and stays until it is taken away. `lose_answer` does the work and then says nothing: what a buyer sees of
a crash or a cut cable. With an identity it speaks TLS and signs what it sells; `forge` changes that on its way.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from aiohttp import web

from crds.conditions import timestamp
from crds.errors import InvalidField
from crds.models.base import validate
from edge_resource_manager.domain import wire
from edge_resource_manager.domain.matching import Candidate
from edge_resource_manager.domain.query import parse_query
from edge_resource_manager.domain.signature import sign
from spire.domain.authorization import any_known
from spire.identity import FixedIdentity
from spire.tls import server_context
from tests.edge_resource_manager.gateway.samples import characteristics

Json = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Fault = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]
OWNER = {"ID": "provider", "IP": "192.0.2.1:3004", "domain": "fluidos.eu"}


async def hang(_request: web.Request, _handler: Handler) -> web.StreamResponse:
    await asyncio.sleep(3600)
    raise AssertionError


async def lose_answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    await handler(request)
    return await hang(request, handler)


def answers(status: int, body: bytes = b"", **headers: str) -> Fault:
    async def fault(_request: web.Request, _handler: Handler) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return fault


def refuses(status: int, detail: str) -> Fault:
    return answers(status, orjson.dumps({"title": "no", "status": status, "detail": detail}))


@dataclass
class RearSimulator:
    """One provider; `known` flavors by id, in wire form."""

    name: str
    flavors: dict[str, Json] = field(default_factory=dict)
    transactions: dict[str, Json] = field(default_factory=dict)
    contracts: dict[str, Json] = field(default_factory=dict)
    bought: list[str] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    limit: int = 1000
    lifetime: timedelta = timedelta(hours=24)
    address: str = ""
    identity: FixedIdentity | None = None
    forge: Callable[[Json], Json] = lambda contract: contract
    latency: dict[str, int] = field(default_factory=dict)
    """By flavor, the p99 in microseconds that it measures; nothing is measured of the others."""
    _delivered: int = 0
    _subscribers: set[asyncio.Queue[Json]] = field(default_factory=set)
    _reservations: int = 0

    @property
    def _port(self) -> int:
        """That of an earlier life, if there was one."""
        return int(self.address.rpartition(":")[2] or 0)

    def offer(
        self, flavor: str, *, latency: str = "12", announce: bool = True, available: bool = True, **changed: Any
    ) -> str:
        """Adds or changes a humidity sensor, and tells subscribers."""
        self.flavors[flavor] = {
            "flavorID": flavor,
            "providerID": self.name,
            "type": {
                "name": "sensor",
                "data": {"characteristics": characteristics(flavor, latency=latency, **changed)},
            },
            "timestamp": timestamp(datetime.now(UTC)),
            "price": {"amount": "", "currency": "", "period": ""},
            "owner": OWNER,
            "availability": available,
        }
        if announce:
            self._publish({"type": "REFRESH", "flavor": self.flavors[flavor]})
        return flavor

    def withdraw(self, flavor: str, *, announce: bool = True, reason: str = "gone") -> None:
        """Takes a flavor away, and with it everything that was sold of it."""
        del self.flavors[flavor]
        for holder in (self.transactions, self.contracts):
            for name in [name for name, each in holder.items() if each["_flavor"] == flavor]:
                del holder[name]
        if announce:
            self._publish({"type": "WITHDRAW", "flavorID": flavor, "reason": reason})

    def sold(self) -> list[str]:
        """Flavors of the contracts that are in force."""
        return sorted(each["_flavor"] for each in self.contracts.values())

    def _publish(self, event: Json) -> None:
        for queue in self._subscribers:
            queue.put_nowait(event)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["RearSimulator"]:
        app = web.Application()
        base = "/api/v2"
        for method, path, operation, handler in (
            ("GET", "/flavors/sensors", "list", self._list),
            ("GET", "/flavors/sensors/events", "events", self._events),
            ("GET", "/flavors/sensors/{id}", "sensor", self._sensor),
            ("POST", "/reservations", "reserve", self._reserve),
            ("POST", "/transactions/{id}/purchase", "purchase", self._purchase),
            ("GET", "/contracts/{id}", "contract", self._contract),
            ("PUT", "/contracts/{id}/configuration", "configure", self._configure),
            ("DELETE", "/contracts/{id}", "end", self._end),
        ):
            app.router.add_route(method, base + path, self._faulty(operation, handler))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        tls = server_context(self.identity, authorize=any_known()) if self.identity else None
        site = web.TCPSite(runner, "127.0.0.1", self._port, ssl_context=tls)
        await site.start()
        self.address = f"127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    def _faulty(self, operation: str, handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.asked.append(operation)
            fault = self.faults.get(operation) or self.faults.get("*")
            return await (fault(request, handler) if fault else handler(request))

        return handle

    async def _list(self, request: web.Request) -> web.StreamResponse:
        try:
            query = parse_query(request.query.items())
        except InvalidField as error:
            return web.json_response({"title": "bad", "status": 400, "detail": str(error)}, status=400)
        found = []
        for each in self.flavors.values():
            read = Candidate.of(validate(wire.Flavor, each), provider="", address="")
            if query.matches(read.view):
                found.append(each)
        return web.json_response(found[: query.limit])

    async def _events(self, request: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[Json] = asyncio.Queue()
        self._subscribers.add(queue)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        with contextlib.suppress(ConnectionError):
            try:
                await response.prepare(request)
                await response.write(b'{"type":"HEARTBEAT"}\n')
                while True:
                    await response.write(orjson.dumps(await queue.get()) + b"\n")
            finally:
                self._subscribers.discard(queue)
        return response

    async def _sensor(self, request: web.Request) -> web.StreamResponse:
        return _json(self.flavors.get(request.match_info["id"]))

    async def _reserve(self, request: web.Request) -> web.StreamResponse:
        wish = await request.json()
        flavor, claim = wish["flavorID"], wish["configuration"]["data"]["claim"]["uid"]
        if flavor not in self.flavors:
            return _json(None)
        which = f"{wish['buyerID']['ID']}.{flavor}.{claim}"
        for each in (*self.contracts.values(), *self.transactions.values()):
            if each["_which"] == which:
                if each["transactionID"] in self.transactions:
                    self.transactions[each["transactionID"]]["configuration"] = wish["configuration"]
                return _json(self._transaction(each["transactionID"], each))
        taken = {
            each["transactionID"]
            for each in (*self.contracts.values(), *self.transactions.values())
            if each["_flavor"] == flavor
        }
        if len(taken) >= self.limit:
            return web.json_response({"title": "no", "status": 409, "detail": "sold out"}, status=409)
        self._reservations += 1
        name = f"t{self._reservations}"
        self.transactions[name] = {
            "transactionID": name,
            "configuration": wish["configuration"],
            "buyer": wish["buyerID"],
            "_flavor": flavor,
            "_which": which,
        }
        return _json(self._transaction(name, self.transactions[name]))

    def _transaction(self, name: str, held: Json) -> Json:
        return {
            "transactionID": name,
            "flavorID": held["_flavor"],
            "configuration": held["configuration"],
            "buyer": held["buyer"] if "buyer" in held else held["buyerID"],
            "clusterID": "",
            "expirationTime": self._end_time(timedelta(seconds=60)),
        }

    async def _purchase(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["id"]
        contract = self.contracts.get(f"contract-{name}")
        if contract is None:
            held = self.transactions.pop(name, None)
            if held is None:
                return _json(None)
            contract = self.contracts[f"contract-{name}"] = {
                "contractID": f"contract-{name}",
                "transactionID": name,
                "flavor": self.flavors[held["_flavor"]],
                "buyerID": held["buyer"],
                "buyerClusterID": held["buyer"]["ID"],
                "seller": OWNER,
                "configuration": held["configuration"],
                "expirationTime": self._end_time(self.lifetime),
                "_flavor": held["_flavor"],
                "_which": held["_which"],
            }
            self.bought.append(held["_flavor"])
        return self._sold(contract)

    async def _contract(self, request: web.Request) -> web.StreamResponse:
        contract = self.contracts.get(request.match_info["id"])
        p99 = contract and self.latency.get(contract["_flavor"])
        if contract is None or p99 is None:
            return _json(contract)
        self._delivered += 10
        measured = {"delivered": self._delivered, "rateMillihertz": 1000, "p50Microseconds": 1, "p99Microseconds": p99}
        return _json({**contract, "measured": measured})

    async def _configure(self, request: web.Request) -> web.StreamResponse:
        contract = self.contracts.get(request.match_info["id"])
        if contract is not None:
            contract["configuration"] = await request.json()
            contract["expirationTime"] = self._end_time(self.lifetime)
        return _json(contract) if contract is None else self._sold(contract)

    def _sold(self, contract: Json) -> web.Response:
        if self.identity is None:
            return _json(contract)
        mark = sign(contract, svid=self.identity.current.svid, now=datetime.now(UTC))
        return _json(self.forge({**contract, "signature": mark}))

    async def _end(self, request: web.Request) -> web.StreamResponse:
        found = self.contracts.pop(request.match_info["id"], None)
        return web.Response(status=404 if found is None else 204)

    @staticmethod
    def _end_time(lifetime: timedelta) -> str:
        return timestamp(datetime.now(UTC) + lifetime + timedelta(milliseconds=999))


def _json(found: Json | None) -> web.Response:
    if found is None:
        return web.json_response({"title": "no", "status": 404, "detail": "nothing of that name"}, status=404)
    return web.json_response(found)


def endpoints(contract: Json) -> list[str]:
    return [each["url"] for each in contract["configuration"]["data"]["endpoints"]]
