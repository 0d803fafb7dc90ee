"""HTTP around the record: `POST /<name>` receives, `GET /<name>` shows, `PUT /<name>` sets a fault.

An endpoint comes into being with its first request.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

import orjson
from aiohttp import web
from pydantic import ValidationError

from crds.models.base import invalid_field
from scripts.sink.bodies import readings
from scripts.sink.record import Endpoint, Fault

MAX_BODY: Final = 64 * 2**20
MAX_ENDPOINTS: Final = 1024
HANG_SECONDS: Final = 3600.0


class Sink:
    """The endpoints of one server on 127.0.0.1. Use as an async context manager.

    Args:
        port: 0 takes a free one; `port` says which.
    """

    def __init__(self, *, port: int = 0) -> None:
        self.port = port
        self.endpoints: dict[str, Endpoint] = {}
        app = web.Application(client_max_size=MAX_BODY)
        app.add_routes(
            [web.post("/{name}", self._receive), web.get("/{name}", self._show), web.put("/{name}", self._set_fault)]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    async def __aenter__(self) -> Sink:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def url(self, name: str) -> str:
        """Where the endpoint of this name receives."""
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
        endpoint.take(batch, at=arrived)
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
