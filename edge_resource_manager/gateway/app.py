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
from crds.models.fluidos import NodeIdentity
from edge_resource_manager.domain import conversion, wire
from edge_resource_manager.domain.query import parse_query
from edge_resource_manager.domain.reservations import Wish
from edge_resource_manager.domain.stock_query import StockQuery, parse_k8slice_query, parse_service_query
from edge_resource_manager.gateway import metrics
from edge_resource_manager.gateway.events import Hub
from edge_resource_manager.gateway.guard import Guard, cut
from edge_resource_manager.gateway.openapi import document
from edge_resource_manager.gateway.problems import Rejected, response_of
from edge_resource_manager.gateway.sales import Sales
from edge_resource_manager.gateway.store import Listed, Store

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
        sales: what buyers may do.
        hub: the events.
        ready: whether the store is complete; until then every answer is 503.

    Attributes:
        heartbeat_seconds: of silence on an event stream, after which a HEARTBEAT is sent.
        write_seconds: that the reader of an event stream may take before it is cut off.
    """

    def __init__(self, *, store: Store, sales: Sales, hub: Hub, ready: Callable[[], bool]) -> None:
        self._store = store
        self._sales = sales
        self._hub = hub
        self._ready = ready
        self.heartbeat_seconds = HEARTBEAT_SECONDS
        self.write_seconds = WRITE_SECONDS

    def app(self, guard: Guard) -> web.Application:
        """The application with all routes."""

        @web.middleware
        async def outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._answer(request, handler, guard)

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

    async def list_all(self, _: web.Request) -> web.Response:
        """LIST_FLAVORS. Sensors are never here: a stock consumer fails as a whole on a type that it does not know."""
        bodies = [self._store.body(each) for each in self._store.listed("k8slice", "service")]
        return _json(bodies) if bodies else web.Response(status=HTTPStatus.NO_CONTENT)

    async def list_k8slices(self, request: web.Request) -> web.Response:
        """LIST by type."""
        return self._list_stock("k8slice", parse_k8slice_query(request.query.items()))

    async def list_services(self, request: web.Request) -> web.Response:
        """LIST by type."""
        return self._list_stock("service", parse_service_query(request.query.items()))

    async def list_sensors(self, request: web.Request) -> web.Response:
        """LIST by type."""
        query = parse_query(request.query.items())
        found = [each for each in self._store.listed("sensor") if each.view and query.matches(each.view)]
        return self._page(found, query.limit)

    async def get_sensor(self, request: web.Request) -> web.Response:
        """One flavor, available or not."""
        flavor_id = request.match_info["flavorID"]
        listed = self._store.find(flavor_id)
        if listed is None or listed.type != "sensor":
            raise Rejected(HTTPStatus.NOT_FOUND, f"no sensor flavor {flavor_id[:253]}")
        return _json(self._store.body(listed))

    async def stream_events(self, request: web.Request) -> web.StreamResponse:
        """SUBSCRIBE: NDJSON until either side ends it. The first line says that nothing is missed from here on."""
        subscription = self._hub.subscribe()
        if subscription is None:
            raise Rejected(HTTPStatus.SERVICE_UNAVAILABLE, "too many subscribers", after=10)
        heartbeat = orjson.dumps(wire.Heartbeat().dump()) + b"\n"
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        lines = heartbeat
        try:
            await response.prepare(request)
            while subscription.is_open:
                async with asyncio.timeout(self.write_seconds):
                    await response.write(lines)
                lines = await subscription.take(timeout=self.heartbeat_seconds) or heartbeat
        except TimeoutError:
            cut(request.protocol, "slow_reader")
        finally:
            self._hub.unsubscribe(subscription)
        return response

    async def reserve(self, request: web.Request) -> web.Response:
        """RESERVE_FLAVOR."""
        asked = await _body(request, wire.ReservationRequest)
        configuration = conversion.sensor_configuration(asked.configuration)
        wish = Wish(
            flavor_id=asked.flavor_id, buyer=buyer_of(request, claimed=asked.buyer), configuration=configuration
        )
        return _json(conversion.transaction_to_wire(await self._sales.reserve(wish)).dump())

    async def purchase(self, request: web.Request) -> web.Response:
        """PURCHASE_FLAVOR. The body may be empty."""
        asked = await _body(request, wire.PurchaseRequest, empty=b"{}")
        telemetry = asked.ingress_telemetry_endpoint.endpoint if asked.ingress_telemetry_endpoint else None
        contract = await self._sales.purchase(request.match_info["transactionID"], telemetry=telemetry)
        return _json(conversion.contract_to_wire(contract).dump())

    async def release(self, request: web.Request) -> web.Response:
        """Give a reservation back."""
        await self._sales.release(request.match_info["transactionID"])
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def get_contract(self, request: web.Request) -> web.Response:
        """A contract in force."""
        return _json(conversion.contract_to_wire(self._sales.contract(request.match_info["contractID"])).dump())

    async def configure(self, request: web.Request) -> web.Response:
        """REFRESH of a contract: other endpoints or another filter, and its lifetime anew."""
        configuration = conversion.sensor_configuration(await _body(request, wire.Configuration), field="(body)")
        contract = await self._sales.reconfigure(request.match_info["contractID"], configuration)
        return _json(conversion.contract_to_wire(contract).dump())

    async def end_contract(self, request: web.Request) -> web.Response:
        """End a contract."""
        await self._sales.end(request.match_info["contractID"])
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def get_openapi(self, _: web.Request) -> web.Response:
        """This API."""
        return _json(document())

    async def get_schema(self, _: web.Request) -> web.Response:
        """What goes into `configuration.data`."""
        return web.Response(text=json_schema_text(), content_type="application/schema+json")

    def _list_stock(self, name: wire.TypeName, query: StockQuery) -> web.Response:
        return self._page([each for each in self._store.listed(name) if query.matches(each.type_data)], query.limit)

    def _page(self, found: list[Listed], limit: int) -> web.Response:
        answer = _json([self._store.body(each) for each in found[:limit]])
        answer.headers["Total-Count"] = str(len(found))
        return answer

    async def _answer(self, request: web.Request, handler: Handler, guard: Guard) -> web.StreamResponse:
        """Every request goes through here: bounds, readiness, problems, figures."""
        resource = request.match_info.route.resource
        method, route = (request.method, resource.canonical) if resource is not None else ("(other)", "(other)")
        begun = time.perf_counter()
        try:
            response = await self._handle(request, handler, guard)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            response = response_of(error)
        if isinstance(response, web.Response):  # not an event stream
            metrics.REQUEST_SECONDS.labels(route).observe(time.perf_counter() - begun)
        metrics.REQUESTS.labels(method, route, response.status).inc()
        return response

    async def _handle(self, request: web.Request, handler: Handler, guard: Guard) -> web.StreamResponse:
        guard.asked(request)
        if not self._ready():
            raise Rejected(HTTPStatus.SERVICE_UNAVAILABLE, "the gateway is starting", after=1)
        if handler == self.stream_events:
            return await handler(request)
        async with guard.place():
            return await handler(request)

    async def _close_streams(self, _: web.Application) -> None:
        self._hub.close()


def buyer_of(request: web.Request, *, claimed: wire.NodeIdentity) -> NodeIdentity:  # noqa: ARG001 - the seam for mTLS: the peer's SPIFFE ID is in the request
    """Who asks. Nobody proves it yet: it is what the body claims, as in FLUIDOS."""
    return conversion.identity_from_wire(claimed)


async def _body(request: web.Request, model: type[M], *, empty: bytes = b"") -> M:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except TimeoutError as error:
        raise Rejected(HTTPStatus.REQUEST_TIMEOUT, f"the body took more than {BODY_SECONDS:g} s") from error
    return wire.parse(model, body or empty)


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")
