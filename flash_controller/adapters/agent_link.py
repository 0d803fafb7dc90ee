"""A device of an edge agent, leased: what a protocol sees as its link. The wire is `crds.models.links`."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, Self, TypeVar

import aiohttp
from pydantic import ValidationError

from crds.errors import EdgeError, Retryable, Terminal
from crds.models.links import HEARTBEAT_SECONDS, LINKS_ROUTE, MAX_MESSAGE, Ended, HttpAnswer, HttpRequest, Opened

OPEN_SECONDS: Final = 45.0
"""The agent may look for a device on the air for a while."""
SEND_SECONDS: Final = 30.0
REQUEST_SECONDS: Final = 20.0
CLOSE_SECONDS: Final = 8.0
MAX_WAITING: Final = 256
"""Frames that wait here for the protocol; more wait on their way."""

T = TypeVar("T", bytes, str)
Socket = aiohttp.ClientWebSocketResponse


class EdgeAgent:
    """The agent of one node.

    Args:
        url: `https://host:port`.
        context: shows the runner's SVID and knows the agent by its own; None where `url` is plain HTTP.
    """

    def __init__(self, url: str, *, context: ssl.SSLContext | None) -> None:
        self._url = url.rstrip("/")
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context or True))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def lease(self, namespace: str, device: str) -> AgentLink:
        """A link to a device, which is nobody else's until it is closed.

        Raises:
            Retryable: agent or device is not reached, or another runner has it.
            Terminal: the agent has no such device, or no way to it.
        """
        url = self._url + LINKS_ROUTE.format(namespace=namespace, device=device)
        limits = aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                socket = await self._session.ws_connect(
                    url, heartbeat=HEARTBEAT_SECONDS, max_msg_size=MAX_MESSAGE, timeout=limits, autoclose=False
                )
                return AgentLink(socket, opened=await _opened(socket))
        except (aiohttp.ClientError, OSError) as error:
            raise Retryable(f"the edge agent at {self._url}: {error or type(error).__name__}") from error


class AgentLink:
    """A lease, which ends with the connection.

    Attributes:
        max_frame: of one `send`.
        address: where the device has to dial in, as host:port; empty where the agent reaches it itself.
    """

    def __init__(self, socket: Socket, *, opened: Opened) -> None:
        self.max_frame = opened.max_frame
        self.address = opened.address
        self._socket = socket
        self._over: EdgeError | None = None
        self._frames: asyncio.Queue[bytes | EdgeError] = asyncio.Queue(MAX_WAITING)
        self._answers: asyncio.Queue[str | EdgeError] = asyncio.Queue(2)  # an answer, and the end
        self._reading = asyncio.create_task(self._read())

    async def send(self, frame: bytes) -> None:
        """Hand over one frame; returns when there is room for the next.

        Raises:
            Retryable: the link, the lease or the device is gone.
        """
        self._check()
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._socket.send_bytes(frame)
        except (aiohttp.ClientError, OSError) as error:
            raise Retryable(f"the link is gone: {error or type(error).__name__}") from error

    async def receive(self) -> bytes:
        """The next frame, however long that takes; never empty.

        Raises:
            Retryable: as for `send`, after all that came before.
        """
        return await self._next(self._frames)

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """One HTTP request to a device that dials in; the answer's status and body. One at a time.

        Raises:
            Retryable: no answer.
        """
        asked = HttpRequest.model_validate({"method": method, "path": path, "body": body})
        self._check()
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._socket.send_str(asked.model_dump_json(by_alias=True))
                answer = HttpAnswer.model_validate_json(await self._next(self._answers))
        except (aiohttp.ClientError, OSError, ValidationError) as error:
            raise Retryable(f"{method} {path}: {error or type(error).__name__}") from error
        if answer.status == 0:
            raise Retryable(f"{method} {path}: {answer.body.decode(errors='replace')}")
        return answer.status, answer.body

    async def close(self) -> None:
        """Give the device back; returns when the agent has let go of it, if that is soon."""
        self._reading.cancel()
        await asyncio.wait([self._reading])
        await self._socket.close()

    async def _read(self) -> None:
        try:
            while self._over is None:
                message = await self._socket.receive()
                match message.type:
                    case aiohttp.WSMsgType.BINARY:
                        await self._frames.put(message.data)
                    case aiohttp.WSMsgType.TEXT:
                        await self._answers.put(message.data)
                    case _:
                        self._over = _end(message)
        finally:
            self._over = over = self._over or Retryable("the link is closed")
            for queue in (self._frames, self._answers):
                if queue.empty():  # then somebody may be waiting; who comes later looks first
                    queue.put_nowait(over)

    async def _next(self, queue: asyncio.Queue[T | EdgeError]) -> T:
        if queue.empty():
            self._check()
        item = await queue.get()
        if isinstance(item, EdgeError):
            raise item
        return item

    def _check(self) -> None:
        if self._over is not None:
            raise self._over


async def _opened(socket: Socket) -> Opened:
    """What the agent says first.

    Raises:
        Retryable: not now.
        Terminal: never.
    """
    message = await socket.receive()
    try:
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise _end(message)
        return Opened.model_validate_json(message.data)
    except (EdgeError, ValidationError) as error:
        await socket.close()
        if isinstance(error, EdgeError):
            raise
        raise Terminal(f"the edge agent speaks another language: {error}", reason="UnknownProtocol") from error


def _end(message: aiohttp.WSMessage) -> EdgeError:
    """What the last message of a connection means."""
    if message.type is not aiohttp.WSMsgType.CLOSE:
        return Retryable("the connection to the edge agent is lost")
    said = message.extra or ""
    try:
        why = Ended(message.data)
    except ValueError:
        return Retryable(f"the edge agent ended the link: {message.data} {said}".rstrip())
    return Retryable(said) if why.may_pass else Terminal(said, reason=why.reason)
