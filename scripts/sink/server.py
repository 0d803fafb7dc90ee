"""HTTP around the record: `POST /<name>` receives, `GET /<name>` shows, `PUT /<name>` sets a fault.

An endpoint comes into being with its first request. With an identity, readings come over mutual TLS on a port of their
own and from relays alone; whoever looks on from this machine does so over plain HTTP as before.
"""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from typing import Final

import orjson
from aiohttp import web
from pydantic import ValidationError

from crds.models.base import invalid_field
from scripts.sink.bodies import readings
from scripts.sink.record import Endpoint, Fault
from spire.domain.authorization import under
from spire.identity import IdentitySource
from spire.tls import peer_of, server_context

MAX_BODY: Final = 64 * 2**20
MAX_ENDPOINTS: Final = 1024
HANG_SECONDS: Final = 3600.0


class Sink:
    """The endpoints of one server on 127.0.0.1. Use as an async context manager.

    Args:
        port: 0 takes a free one; `port` says which.
        identity: None receives over plain HTTP.
        tls_port: where readings come with an identity; as `port`.
        verify_readings: of those that are signed, take what their devices signed and nothing else. By the bundles of
            the identity.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        identity: IdentitySource | None = None,
        tls_port: int = 0,
        verify_readings: bool = False,
    ) -> None:
        self.port = port
        self.tls_port = tls_port
        self.endpoints: dict[str, Endpoint] = {}
        self._identity = identity
        self._verifier = identity if verify_readings else None
        app = web.Application(client_max_size=MAX_BODY)
        app.add_routes(
            [web.post("/{name}", self._receive), web.get("/{name}", self._show), web.put("/{name}", self._set_fault)]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    async def __aenter__(self) -> Sink:
        await self._runner.setup()
        self.port = await self._listen(self.port)
        if self._identity is not None:
            self.tls_port = await self._listen(
                self.tls_port, server_context(self._identity, authorize=under("/relay/"))
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _listen(self, port: int, context: ssl.SSLContext | None = None) -> int:
        await web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=context).start()
        bound: int = self._runner.addresses[-1][1]
        return bound

    def url(self, name: str) -> str:
        """Where the endpoint of this name receives."""
        if self._identity is None:
            return self.control_url(name)
        return f"https://127.0.0.1:{self.tls_port}/{name}"

    def control_url(self, name: str) -> str:
        """Where it shows what it received, and is told to misbehave."""
        return f"http://127.0.0.1:{self.port}/{name}"

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint of this name, made when it is new.

        Raises:
            HTTPInsufficientStorage: there are too many already.
        """
        if name not in self.endpoints and len(self.endpoints) >= MAX_ENDPOINTS:
            raise web.HTTPInsufficientStorage(text=f"there are {MAX_ENDPOINTS} endpoints already")
        return self.endpoints.setdefault(name, Endpoint())

    async def _receive(self, request: web.Request) -> web.Response:
        arrived = datetime.now(UTC)
        client = peer_of(request.transport)
        if self._identity is not None and client is None:
            raise web.HTTPForbidden(text="readings are taken over TLS only")
        endpoint = self.endpoint(request.match_info["name"])
        endpoint.requests += 1
        fault = endpoint.next_fault()
        await asyncio.sleep(HANG_SECONDS if fault.hang else fault.delay_seconds)
        try:
            batch = readings(await request.read(), content_type=request.content_type)
        except ValueError as error:
            endpoint.unreadable += 1
            raise web.HTTPBadRequest(text=str(error)) from error
        if fault.status >= 300 and len(batch) > fault.over_records:
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else None
            return web.Response(status=fault.status, headers=headers)
        bundles = None if self._verifier is None else self._verifier.current.bundles
        endpoint.take(batch, at=arrived, client=client, bundles=bundles)
        return web.Response(status=204)

    async def _show(self, request: web.Request) -> web.Response:
        received = self.endpoint(request.match_info["name"]).received()
        return web.Response(body=orjson.dumps(received.dump()), content_type="application/json")

    async def _set_fault(self, request: web.Request) -> web.Response:
        try:
            fault = Fault.model_validate_json(await request.read())
        except ValidationError as error:
            raise web.HTTPBadRequest(text=str(invalid_field(error))) from error
        self.endpoint(request.match_info["name"]).fault = fault
        return web.Response(status=204)
