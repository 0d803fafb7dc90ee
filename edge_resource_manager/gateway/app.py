"""REAR over HTTP: requests to calls, results to JSON. What is decided is decided in `sales` and `domain`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel

from crds.models.configuration import json_schema_text
from edge_resource_manager.domain import conversion, wire
from edge_resource_manager.domain.query import parse_query
from edge_resource_manager.domain.reservations import Wish
from edge_resource_manager.domain.stock_query import StockQuery, parse_k8slice_query, parse_service_query
from edge_resource_manager.gateway import metrics
from edge_resource_manager.gateway.events import Hub
from edge_resource_manager.gateway.offers import Listed
from edge_resource_manager.gateway.openapi import document
from edge_resource_manager.gateway.peers import Peers
from edge_resource_manager.gateway.places import Places
from edge_resource_manager.gateway.problems import Rejected, response_of
from edge_resource_manager.gateway.repurposing import Repurposing
from edge_resource_manager.gateway.sales import Sales
from edge_resource_manager.gateway.store import Store
from spire.serving.guard import Guard

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
M = TypeVar("M", bound=BaseModel)

BASE = "/api/v2"
BODY_SECONDS = 10.0
HEARTBEAT_SECONDS = 10.0
WRITE_SECONDS = 10.0


class Rear:
    """The handlers of one gateway.

    Args:
        store: what is offered.
        repurposing: what could be offered.
        sales: what buyers may do.
        hub: the events.
        peers: who asks.
        ready: whether the store is complete; until then every answer is 503.
        guard: of its server.

    Attributes:
        heartbeat_seconds: of silence on an event stream, after which a HEARTBEAT is sent.
        places: for requests at a time.
        write_seconds: that the reader of an event stream may take before it is cut off.
    """

    def __init__(
        self,
        *,
        store: Store,
        repurposing: Repurposing,
        sales: Sales,
        hub: Hub,
        peers: Peers,
        ready: Callable[[], bool],
        guard: Guard,
    ) -> None:
        self._store = store
        self._repurposing = repurposing
        self._sales = sales
        self._hub = hub
        self._peers = peers
        self._ready = ready
        self._guard = guard
        self.places = Places()
        self.heartbeat_seconds = HEARTBEAT_SECONDS
        self.write_seconds = WRITE_SECONDS

    def app(self) -> web.Application:
        """The application with all routes."""

        @web.middleware
        async def outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._answer(request, handler)

        app = web.Application(middlewares=[outermost], client_max_size=wire.MAX_BODY_BYTES)
        app.add_routes(self.routes())
        app.on_shutdown.append(self._close_streams)
        return app

    def routes(self) -> list[web.RouteDef]:
        """All routes; `openapi` describes each of them."""
        flavors = f"{BASE}/flavors"
        return [
            web.get(flavors, self.list_all, allow_head=False),
            *(web.get(f"{flavors}/{name}", self.list_k8slices, allow_head=False) for name in ("k8slice", "k8slices")),
            *(web.get(f"{flavors}/{name}", self.list_services, allow_head=False) for name in ("service", "services")),
            *(web.get(f"{flavors}/{name}", self.list_sensors, allow_head=False) for name in ("sensors", "sensor")),
            web.get(f"{flavors}/sensors/events", self.stream_events, allow_head=False),
            web.get(f"{flavors}/sensors/potential", self.list_potential, allow_head=False),
            web.get(f"{flavors}/sensors/{{flavorID}}", self.get_sensor, allow_head=False),
            web.post(f"{BASE}/reservations", self.reserve),
            web.post(f"{BASE}/transactions/{{transactionID}}/purchase", self.purchase),
            web.delete(f"{BASE}/transactions/{{transactionID}}", self.release),
            web.get(f"{BASE}/contracts/{{contractID}}", self.get_contract, allow_head=False),
            web.delete(f"{BASE}/contracts/{{contractID}}", self.end_contract),
            web.put(f"{BASE}/contracts/{{contractID}}/configuration", self.configure),
            web.get(f"{BASE}/openapi.json", self.get_openapi, allow_head=False),
            web.get(f"{BASE}/schemas/sensor-configuration.json", self.get_schema, allow_head=False),
        ]

    async def list_all(self, request: web.Request) -> web.Response:
        """LIST_FLAVORS. Sensors are never here: a stock consumer fails as a whole on a type that it does not know."""
        found = self._store.listed("k8slice", "service", viewer=self._peers.viewer(request))
        bodies = [self._store.body(each) for each in found]
        return _json(bodies) if bodies else web.Response(status=HTTPStatus.NO_CONTENT)

    async def list_k8slices(self, request: web.Request) -> web.Response:
        """LIST by type."""
        return self._list_stock(request, "k8slice", parse_k8slice_query(request.query.items()))

    async def list_services(self, request: web.Request) -> web.Response:
        """LIST by type."""
        return self._list_stock(request, "service", parse_service_query(request.query.items()))

    async def list_sensors(self, request: web.Request) -> web.Response:
        """LIST by type."""
        query = parse_query(request.query.items())
        offered = self._store.listed("sensor", viewer=self._peers.viewer(request))
        found = [each for each in offered if each.view and query.matches(each.view)]
        return self._page(found, query.limit)

    async def list_potential(self, request: web.Request) -> web.Response:
        """What idle devices could be made into, for whoever asks."""
        query = parse_query(request.query.items())
        return self._page([*self._repurposing.listed(query.matches, viewer=self._peers.viewer(request))], query.limit)

    async def get_sensor(self, request: web.Request) -> web.Response:
        """One flavor, available or not. Whoever has bought it sees it, whatever the policy has become."""
        flavor_id = request.match_info["flavorID"]
        listed = self._store.find(flavor_id) or self._sales.in_the_making(flavor_id, buyer=self._peers.peer(request))
        if listed is None or listed.type != "sensor" or not self._may_see(request, listed, flavor_id):
            raise Rejected(HTTPStatus.NOT_FOUND, f"no sensor flavor {flavor_id[:253]}")
        return _json(self._store.body(listed))

    async def stream_events(self, request: web.Request) -> web.StreamResponse:
        """SUBSCRIBE: NDJSON until either side ends it. The first line says that nothing is missed from here on."""
        subscription = self._hub.subscribe(self._peers.viewer(request))
        if subscription is None:
            raise Rejected(HTTPStatus.SERVICE_UNAVAILABLE, "too many subscribers", after=10)
        heartbeat = orjson.dumps(wire.Heartbeat().dump()) + b"\n"
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        lines = heartbeat
        try:
            await response.prepare(request)
            while subscription.is_open and self._peers.knows(subscription.viewer):
                async with asyncio.timeout(self.write_seconds):
                    await response.write(lines)
                lines = await subscription.take(timeout=self.heartbeat_seconds) or heartbeat
        except TimeoutError:
            self._guard.cut(request.protocol, "slow_reader")
        finally:
            self._hub.unsubscribe(subscription)
        return response

    async def reserve(self, request: web.Request) -> web.Response:
        """RESERVE_FLAVOR."""
        buyer = self._peers.buyer(request)
        asked = await _body(request, wire.ReservationRequest)
        wish = Wish(
            flavor_id=asked.flavor_id,
            buyer=conversion.identity_from_wire(asked.buyer),
            spiffe_id=buyer,
            configuration=conversion.sensor_configuration(asked.configuration),
        )
        return _json(conversion.transaction_to_wire(await self._sales.reserve(wish)).dump())

    async def purchase(self, request: web.Request) -> web.Response:
        """PURCHASE_FLAVOR. The body may be empty."""
        buyer = self._peers.buyer(request)
        asked = await _body(request, wire.PurchaseRequest, empty=b"{}")
        telemetry = asked.ingress_telemetry_endpoint.endpoint if asked.ingress_telemetry_endpoint else None
        contract = await self._sales.purchase(request.match_info["transactionID"], telemetry=telemetry, buyer=buyer)
        return _json(conversion.contract_to_wire(contract).dump())

    async def release(self, request: web.Request) -> web.Response:
        """Give a reservation back."""
        await self._sales.release(request.match_info["transactionID"], buyer=self._peers.buyer(request))
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def get_contract(self, request: web.Request) -> web.Response:
        """A contract in force, and what was measured of it."""
        contract = self._sales.contract(request.match_info["contractID"], buyer=self._peers.buyer(request))
        measured = self._store.measurements.of(contract)
        return _json(conversion.contract_to_wire(contract, measured=measured).dump())

    async def configure(self, request: web.Request) -> web.Response:
        """REFRESH of a contract: other endpoints or another filter, and its lifetime anew."""
        buyer = self._peers.buyer(request)
        configuration = conversion.sensor_configuration(await _body(request, wire.Configuration), field="(body)")
        contract = await self._sales.reconfigure(request.match_info["contractID"], configuration, buyer=buyer)
        return _json(conversion.contract_to_wire(contract).dump())

    async def end_contract(self, request: web.Request) -> web.Response:
        """End a contract."""
        await self._sales.end(request.match_info["contractID"], buyer=self._peers.buyer(request))
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def get_openapi(self, _: web.Request) -> web.Response:
        """This API."""
        return _json(document())

    async def get_schema(self, _: web.Request) -> web.Response:
        """What goes into `configuration.data`."""
        return web.Response(text=json_schema_text(), content_type="application/schema+json")

    def _may_see(self, request: web.Request, listed: Listed, flavor_id: str) -> bool:
        if self._store.may_see(self._peers.viewer(request), listed):
            return True
        return self._sales.has_bought(flavor_id, buyer=self._peers.peer(request))

    def _list_stock(self, request: web.Request, name: wire.TypeName, query: StockQuery) -> web.Response:
        offered = self._store.listed(name, viewer=self._peers.viewer(request))
        return self._page([each for each in offered if query.matches(each.type_data)], query.limit)

    def _page(self, found: list[Listed], limit: int) -> web.Response:
        answer = _json([self._store.body(each) for each in found[:limit]])
        answer.headers["Total-Count"] = str(len(found))
        return answer

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every request goes through here: bounds, readiness, problems, figures."""
        resource = request.match_info.route.resource
        method, route = (request.method, resource.canonical) if resource is not None else ("(other)", "(other)")
        begun = time.perf_counter()
        try:
            response = await self._handle(request, handler)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            response = response_of(error)
        if isinstance(response, web.Response):  # not an event stream
            metrics.REQUEST_SECONDS.labels(route).observe(time.perf_counter() - begun)
        metrics.REQUESTS.labels(method, route, response.status).inc()
        return response

    async def _handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._guard.asked(request)
        if not self._ready():
            raise Rejected(HTTPStatus.SERVICE_UNAVAILABLE, "the gateway is starting", after=1)
        if handler == self.stream_events:
            return await handler(request)
        with self.places.take():
            return await handler(request)

    async def _close_streams(self, _: web.Application) -> None:
        self._hub.close()


async def _body(request: web.Request, model: type[M], *, empty: bytes = b"") -> M:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except TimeoutError as error:
        raise Rejected(HTTPStatus.REQUEST_TIMEOUT, f"the body took more than {BODY_SECONDS:g} s") from error
    return wire.parse(model, body or empty)


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")
