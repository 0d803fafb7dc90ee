"""The issuer over HTTP: the bundle endpoint, workloads, the bundles that they follow, and the calls of devices.

Who answers is proven by TLS; who asks need not be, as most come for their first SVID.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

import orjson
import structlog
from aiohttp import web

from crds.errors import EdgeError, InvalidField, Retryable
from spire.domain.authority import MAX_CSR
from spire.domain.bundle import to_json
from spire.domain.errors import Reason, Untrusted
from spire.domain.rates import Rates
from spire.domain.spiffe_id import TrustDomain
from spire.issuer import metrics
from spire.issuer.authority import Authority
from spire.issuer.workloads import Workloads
from spire.serving.guard import Guard

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BODY_SECONDS: Final = 10.0
POLL_SECONDS: Final = 30.0
TRADE_SECONDS: Final = 25.0
"""More than a request to the API server may take."""
MAX_TRADES: Final = 32
MAX_POLLS: Final = 1024
BURST: Final = 200.0
PER_SECOND: Final = 20.0
"""Calls of one address: a node's workloads come together when it starts."""

_STATUS: Final[Mapping[str, HTTPStatus]] = {
    Reason.NOT_AUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    Reason.NOT_ENTITLED: HTTPStatus.FORBIDDEN,
}


class Front:
    """What the issuer answers.

    Args:
        authority: whose SVIDs and bundles.
        workloads: trades tokens.
        routes: of devices; they bring their own limits.
    """

    def __init__(self, *, authority: Authority, workloads: Workloads, routes: list[web.RouteDef]) -> None:
        self._authority = authority
        self._workloads = workloads
        self._routes = routes
        self._rates: Rates[str] = Rates(burst=BURST, per_second=PER_SECOND)
        self._trades = 0
        self._polls = 0
        self._closing = False
        self._turned = asyncio.Event()
        self._answer = _bundles(authority.bundles)
        authority.on_change(self._turn)

    def app(self, guard: Guard) -> web.Application:
        """The application with all routes."""

        @web.middleware
        async def outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
            guard.asked(request)
            return await _observed(request, handler)

        app = web.Application(middlewares=[outermost], client_max_size=MAX_CSR)
        app.add_routes(
            [
                web.get("/bundle", self.get_bundle),
                web.post("/v1/workloads", self.trade),
                web.get("/v1/bundles", self.follow_bundles, allow_head=False),
                *self._routes,
            ]
        )
        app.on_shutdown.append(self._close)
        return app

    async def get_bundle(self, request: web.Request) -> web.Response:
        """The bundle endpoint (SPIFFE Federation, 5)."""
        self._admit(request)
        return web.Response(body=to_json(self._authority.bundle), content_type="application/json")

    async def trade(self, request: web.Request) -> web.Response:
        """A ServiceAccount's token and a request for an SVID."""
        self._admit(request)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Untrusted(Reason.NOT_AUTHENTICATED, "Authorization: Bearer and a ServiceAccount's token is expected")
        csr = await _body(request)
        # Counted from here: whoever sends slowly holds a connection, and none of the few places at the API server.
        if self._trades >= MAX_TRADES:
            raise Retryable("too many workloads ask at a time", after=1.0)
        self._trades += 1
        try:
            async with asyncio.timeout(TRADE_SECONDS):
                spiffe_id, issued = await self._workloads.trade(token.strip(), csr=csr)
            log.info("issued", spiffe_id=str(spiffe_id), to=request.remote, expires=issued.expires.isoformat())
        except TimeoutError as error:
            raise Retryable(f"no answer within {TRADE_SECONDS:g} s") from error
        finally:
            self._trades -= 1
        return _json(
            {
                "spiffeID": str(spiffe_id),
                "chain": [b64encode(each).decode() for each in issued.chain],
                "expiresAt": issued.expires.isoformat().replace("+00:00", "Z"),
                **self._answer,
            }
        )

    async def follow_bundles(self, request: web.Request) -> web.Response:
        """The bundles, at once if they are others than those that the caller has, else as soon as they are."""
        self._admit(request)
        known = request.query.get("after")
        if self._answer["bundlesVersion"] == known and not self._closing:
            if self._polls >= MAX_POLLS:
                raise Retryable("too many wait for bundles", after=POLL_SECONDS)
            self._polls += 1
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._turned.wait()
            except TimeoutError:
                pass  # the answer is then that nothing changed
            finally:
                self._polls -= 1
        return _json(self._answer)

    def _admit(self, request: web.Request) -> None:
        if not self._rates.allow(request.remote or "", now=datetime.now(UTC)):
            raise web.HTTPTooManyRequests(headers={"Retry-After": "1"}, text="asked too often\n")

    def _turn(self) -> None:
        self._answer = _bundles(self._authority.bundles)
        self._wake()

    def _wake(self) -> None:
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()

    async def _close(self, _: web.Application) -> None:
        self._closing = True
        self._wake()


async def _observed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every request goes through here: errors to answers, answers to figures."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "(other)"
    begun = time.perf_counter()
    try:
        response = await handler(request)
    except web.HTTPException as error:
        metrics.REQUESTS.labels(route, error.status).inc()
        raise
    except EdgeError as error:
        log.info("refused", route=route, to=request.remote, error=str(error))
        response = _refusal(error)
    if route != "/v1/bundles":
        metrics.REQUEST_SECONDS.labels(route).observe(time.perf_counter() - begun)
    metrics.REQUESTS.labels(route, response.status).inc()
    return response


def _refusal(error: EdgeError) -> web.Response:
    """Our answer to what went wrong: whose fault it is, and whether to come again."""
    match error:
        case Untrusted() | InvalidField():
            metrics.REFUSED.labels(error.reason).inc()
            status = _STATUS.get(error.reason, HTTPStatus.BAD_REQUEST)
            return _json({"reason": error.reason, "message": str(error)}, status=status)
        case Retryable(after=after):
            headers = {"Retry-After": str(max(1, round(after or 1.0)))}
        case _:
            headers = {}
    metrics.REFUSED.labels("Unavailable").inc()
    body = {"reason": "Unavailable", "message": str(error)}
    return _json(body, status=HTTPStatus.SERVICE_UNAVAILABLE, headers=headers)


async def _body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body took more than {BODY_SECONDS:g} s\n") from None


def _bundles(bundles: Mapping[TrustDomain, tuple[bytes, ...]]) -> dict[str, object]:
    """The bundles as JSON, and a version that is the same after a restart: what they are, hashed."""
    said = {str(each): [b64encode(root).decode() for root in roots] for each, roots in bundles.items()}
    version = hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
    return {"bundles": said, "bundlesVersion": version}


def _json(
    value: object, *, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json", headers=headers)
