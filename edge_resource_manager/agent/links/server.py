"""Leases devices to flash runners: one runner at a time, and for so long, see `crds.models.links`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import structlog
from aiohttp import WSCloseCode, WSMsgType, web
from pydantic import ValidationError

from crds.errors import Retryable, Terminal
from crds.kube.watch import Key
from crds.models.base import invalid_field
from crds.models.leafdevice import LeafDevice, Update
from crds.models.links import (
    HEARTBEAT_SECONDS,
    LINKS_ROUTE,
    MAX_MESSAGE,
    MAX_REASON,
    Ended,
    HttpRequest,
    Opened,
)
from edge_resource_manager.agent.links import metrics
from edge_resource_manager.agent.links.base import DeviceGone, Way
from edge_resource_manager.agent.links.inbound import DialIn
from edge_resource_manager.agent.links.opening import Opener
from spire.serving.guard import Guard

log = structlog.get_logger(__name__)

LEASE_SECONDS: Final = 1800.0


class _End(Exception):  # noqa: N818 - an outcome
    """The link is over."""

    def __init__(self, why: Ended, message: str) -> None:
        super().__init__(message)
        self.why = why


class Leases:
    """The devices of a node.

    Args:
        leaf: what is known of a LeafDevice.
        opener: opens ways to devices.
        guard: of the server.
        seconds: that a runner may hold a device without a break.
    """

    def __init__(
        self,
        leaf: Callable[[Key], LeafDevice | None],
        opener: Opener,
        *,
        guard: Guard,
        seconds: float = LEASE_SECONDS,
    ) -> None:
        self._leaf = leaf
        self._opener = opener
        self._guard = guard
        self._seconds = seconds
        self._held: dict[str, web.WebSocketResponse] = {}

    def app(self) -> web.Application:
        """What answers runners."""
        app = web.Application()
        app.router.add_get(LINKS_ROUTE, self._lease)
        app.on_shutdown.append(self._end_all)
        return app

    async def _lease(self, request: web.Request) -> web.WebSocketResponse:
        self._guard.asked(request)
        key = request.match_info["namespace"], request.match_info["device"]
        # Who closes hears of it when the device is free again.
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_SECONDS, max_msg_size=MAX_MESSAGE, compress=False, autoclose=False
        )
        await socket.prepare(request)
        try:
            update = self._way_to(key)
            # Two LeafDevices that name one address are one device.
            with self._holding(update.address.lower(), socket):
                async with self._open(update) as way:
                    await self._carry(socket, way)
        except _End as end:
            metrics.ENDED.labels(end.why.name).inc()
            log.info("link ended", leaf="/".join(key), why=end.why.name, message=str(end))
            await socket.close(code=end.why, message=_shortened(str(end)))
        else:
            metrics.ENDED.labels("RUNNER_LEFT").inc()
            log.info("link given back", leaf="/".join(key))
            await socket.close()
        return socket

    async def _end_all(self, _: web.Application) -> None:
        await asyncio.gather(*(each.close(code=WSCloseCode.GOING_AWAY) for each in self._held.values()))

    @contextlib.contextmanager
    def _holding(self, address: str, socket: web.WebSocketResponse) -> Iterator[None]:
        if address in self._held:
            raise _End(Ended.BUSY, "another runner holds the device")
        self._held[address] = socket
        metrics.LEASED.set(len(self._held))
        try:
            yield
        finally:
            del self._held[address]
            metrics.LEASED.set(len(self._held))

    def _way_to(self, key: Key) -> Update:
        leaf = self._leaf(key)
        if leaf is None:
            raise _End(Ended.UNKNOWN_DEVICE, f"this node has no LeafDevice {'/'.join(key)}")
        if leaf.spec.update is None:
            raise _End(Ended.UNKNOWN_DEVICE, "spec.update of the LeafDevice says no way for firmware")
        return leaf.spec.update

    @contextlib.asynccontextmanager
    async def _open(self, update: Update) -> AsyncIterator[Way]:
        try:
            way = await self._opener.open(update)
        except Retryable as error:
            raise _End(Ended.DEVICE_GONE, str(error)) from error
        except Terminal as error:
            raise _End(Ended.NO_WAY, str(error)) from error
        try:
            yield way
        finally:
            await way.close()

    async def _carry(self, socket: web.WebSocketResponse, way: Way) -> None:
        address = way.address if isinstance(way, DialIn) else ""
        with contextlib.suppress(ConnectionError):
            await socket.send_str(Opened(max_frame=way.max_frame, address=address).model_dump_json(by_alias=True))
        directions = [asyncio.create_task(_outward(socket, way)), asyncio.create_task(_inward(way, socket))]
        try:
            async with asyncio.timeout(self._seconds):
                ended, _ = await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            ended.pop().result()
        except TimeoutError as error:
            raise _End(Ended.LEASE_OVER, f"held for {self._seconds:g} s") from error
        except DeviceGone as error:
            raise _End(Ended.DEVICE_GONE, str(error)) from error
        finally:
            for task in directions:
                task.cancel()
            await asyncio.gather(*directions, return_exceptions=True)


async def _outward(socket: web.WebSocketResponse, way: Way) -> None:
    """From the runner, until it leaves."""
    async for message in socket:
        if message.type is WSMsgType.BINARY and 0 < len(message.data) <= way.max_frame:
            await way.send(message.data)
            metrics.FRAMES.labels("out").inc()
        elif message.type is WSMsgType.TEXT and isinstance(way, DialIn):
            answer = await way.request(_request(message.data))
            with contextlib.suppress(ConnectionError):
                await socket.send_str(answer.model_dump_json(by_alias=True))
        else:
            expected = f"frames of 1 to {way.max_frame} bytes; requests go to devices that dial in"
            raise _End(Ended.NOT_A_FRAME, expected)


async def _inward(way: Way, socket: web.WebSocketResponse) -> None:
    """From the device."""
    while not socket.closed:
        frame = await way.receive()
        metrics.FRAMES.labels("in").inc()
        with contextlib.suppress(ConnectionError):  # it has just left
            await socket.send_bytes(frame)


def _request(text: str) -> HttpRequest:
    try:
        return HttpRequest.model_validate_json(text)
    except ValidationError as error:
        raise _End(Ended.NOT_A_FRAME, str(invalid_field(error))) from error


def _shortened(text: str) -> bytes:
    """As much of a text as a close frame takes, whole characters only."""
    return text.encode()[:MAX_REASON].decode(errors="ignore").encode()
