"""Where devices connect: accepts them, keeps one connection an account, and cuts those that lose their grant."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from router_manager.domain.admission import Access, Grants, account_of
from router_manager.relay.ingest import Ingest
from router_manager.relay.listener.client import Client
from router_manager.relay.listener.limits import Counts, Limits
from router_manager.relay.listener.packets import Connect, Reason
from router_manager.relay.mqtt.packets import Received
from spire.domain.errors import Untrusted
from spire.domain.spiffe_id import SpiffeId, TrustDomain

log = structlog.get_logger(__name__)

_HANDSHAKE_SECONDS = 10.0
_TICK_SECONDS = 1.0
_BACKLOG = 512
_NO_DESCRIPTORS_SECONDS = 0.5
_FAREWELL_SECONDS = 1.0
_TCP_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Secured:
    """Clients have to prove who they are.

    Attributes:
        tls: shows the relay's SVID and asks for the client's.
        trust_domain: of the node's devices.
        node: its name.
    """

    tls: ssl.SSLContext
    trust_domain: TrustDomain
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenSettings:
    """Where to listen, and to whom; without `secured` to everybody, for a bench."""

    host: str
    port: int
    secured: Secured | None
    connections: int = 1024
    limits: Limits = field(default_factory=Limits)


class Listener:
    """A source of the ingest beside the session to the broker."""

    def __init__(self, settings: ListenSettings, ingest: Ingest, *, grants: Grants) -> None:
        """Prepare; nothing is opened before `run`.

        Args:
            settings: of the listener.
            ingest: takes the messages.
            grants: who may do what, until `permit` says otherwise.
        """
        self.limits = settings.limits
        self.counts = Counts()
        self.port = 0
        """Where it listens; 0 while it does not."""
        self._settings = settings
        self._ingest = ingest
        self._grants = grants
        self._clients: set[Client] = set()
        self._by_account: dict[str, Client] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._strangers = 0
        self._accepting: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """It listens."""
        return self.port > 0

    @property
    def connected(self) -> int:
        """Accounts that have a connection."""
        return len(self._by_account)

    def permit(self, grants: Grants) -> None:
        """From now on these may do this; who has no grant any more is cut."""
        self._grants = grants
        self._check_grants()

    def send(self, topic: str, payload: bytes) -> bool:
        """Send a message to the device whose topic it is: `device/<ueid>/command/...`, or an answer to attestation.

        Returns:
            Whether the device is here, listens to it and has room. What is queued is lost with the connection.
        """
        _, _, rest = topic.partition("/")
        client = self._by_account.get(rest.partition("/")[0])
        return client is not None and client.access.may_subscribe(topic) and client.send(topic, payload)

    def join(self, client: Client) -> None:
        """See Hub."""
        self._clients.add(client)

    def enter(self, client: Client, connect: Connect, peer: SpiffeId | None) -> Access | Reason:
        """See Hub."""
        answer = self._access(connect, peer)
        if isinstance(answer, Reason):
            return answer
        if connect.will is not None and not answer.may_publish(connect.will.topic):
            return Reason.NOT_AUTHORIZED
        before = self._by_account.get(answer.account)
        if before is not None:
            self.counts.taken_over += 1
            before.end(Reason.TAKEN_OVER)
        self._by_account[answer.account] = client
        return answer

    def receive(self, client: Client, received: Received[Any]) -> None:
        """See Hub."""
        self._ingest.receive(client, received)

    def leave(self, client: Client) -> None:
        """See Hub."""
        self._clients.discard(client)
        if self._by_account.get(client.access.account) is client:
            del self._by_account[client.access.account]

    def shut(self) -> None:
        """Take nothing more; acknowledgements of what was taken can still be sent until `run` is cancelled."""
        if self._accepting is not None:
            self._accepting.cancel()
        for client in self._clients:
            client.shut()

    async def run(self) -> None:
        """Listen until cancelled.

        Raises:
            OSError: the address cannot be had.
        """
        with _bound(self._settings.host, self._settings.port) as listening:
            self.port = listening.getsockname()[1]
            log.info("listening for devices", host=self._settings.host, port=self.port)
            self._accepting = asyncio.create_task(self._accept(listening))
            try:
                while True:
                    await asyncio.sleep(_TICK_SECONDS)
                    self._tick()
            finally:
                self.port = 0
                await self._close()

    def _access(self, connect: Connect, peer: SpiffeId | None) -> Access | Reason:
        secured = self._settings.secured
        if secured is None:
            self._strangers += 1
            return Access(account=connect.client_id or f"stranger-{self._strangers}", topics=None)
        try:
            if peer is None:
                return Reason.NOT_AUTHORIZED
            account = account_of(peer, trust_domain=secured.trust_domain, node=secured.node)
        except Untrusted:
            return Reason.NOT_AUTHORIZED
        grant = self._grants.of(account, now=datetime.now(UTC))
        # A device's name is the one in its certificate, whatever it calls itself.
        return Reason.NOT_AUTHORIZED if grant is None else Access(account=account, topics=grant.topics)

    def _check_grants(self) -> None:
        if self._settings.secured is None:
            return
        now = datetime.now(UTC)
        for account, client in list(self._by_account.items()):
            grant = self._grants.of(account, now=now)
            if grant is None:
                log.info("grant withdrawn", account=account)
                client.shut()
                client.end(Reason.NOT_AUTHORIZED)
            else:
                client.grant(Access(account=account, topics=grant.topics))

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        for client in list(self._clients):
            client.tick(now)
        self._check_grants()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:
                log.warning("cannot accept a connection", error=str(error))
                await asyncio.sleep(_NO_DESCRIPTORS_SECONDS)
                continue
            if len(self._clients) + len(self._opening) >= self._settings.connections:
                self.counts.refused += 1
                connection.close()
                continue
            task = asyncio.create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        secured = self._settings.secured
        try:
            _tune(connection)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Client(self),
                connection,
                ssl=None if secured is None else secured.tls,
                ssl_handshake_timeout=None if secured is None else _HANDSHAKE_SECONDS,
            )
        except OSError as error:  # also of the handshake
            self.counts.refused += 1
            log.debug("no connection came of it", error=str(error))
            connection.close()

    async def _close(self) -> None:
        tasks = [task for task in (self._accepting, *self._opening) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in self._clients:
            client.shut()
            client.end(Reason.SHUTTING_DOWN)
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                while self._clients:  # noqa: ASYNC110 - connections end one by one, with bytes on their way
                    await asyncio.sleep(0.01)


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
        listening.settimeout(0)
    except OSError:
        listening.close()
        raise
    return listening


def _tune(connection: socket.socket) -> None:
    """Answers leave at once, and a device that is gone without a word is noticed although it has no keep-alive."""
    connection.settimeout(0)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _TCP_KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
