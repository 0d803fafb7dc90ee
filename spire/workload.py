"""A process' own identity, over the SPIFFE Workload API: from our helper or from a SPIRE agent, it cannot tell which.

The `spiffe` package reads the stream on a thread of its own and gives up for good on some errors. Here it has one
thread for each try, tries are repeated with a growing pause, and what it reads is handed to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Annotated

import structlog
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import Field, field_validator
from spiffe import WorkloadApiClient, X509Svid
from spiffe.errors import PySpiffeError
from spiffe.workloadapi.x509_context import X509Context

from crds.errors import InvalidField, Stopped, Terminal
from crds.kube.process import ProcessSettings
from spire import metrics
from spire.domain.spiffe_id import TrustDomain
from spire.identity import FixedIdentity, Identity, IdentitySource, Svid

_log = structlog.get_logger(__name__)

SOCKET_VARIABLE = "SPIFFE_ENDPOINT_SOCKET"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


class IdentitySettings(ProcessSettings):
    """Flags of every process that proves who it is."""

    identity_socket: str | None = Field(
        default_factory=lambda: os.environ.get(SOCKET_VARIABLE),
        validate_default=True,
        description=f"Workload API socket, as unix:///path or /path; {SOCKET_VARIABLE} where it is not given",
    )
    identity_wait_seconds: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=60, description="how long to wait for the first identity"
    )
    insecure: bool = Field(default=False, description="no identity and no TLS: for a bench; every status says so")

    @field_validator("identity_socket")
    @classmethod
    def _is_a_path(cls, value: str | None) -> str | None:
        if value is None:
            return None
        path = value.removeprefix("unix://") if value.startswith("unix:///") else value.removeprefix("unix:")
        if not path.startswith("/"):
            msg = "an absolute path, or unix:///path"
            raise ValueError(msg)
        return f"unix:{path}"


@contextlib.asynccontextmanager
async def identity_of(
    settings: IdentitySettings, *, stop: asyncio.Event | None = None
) -> AsyncIterator[IdentitySource | None]:
    """The identity of this process while the context is open; None when it shall have none (`--insecure`).

    The last identity is kept when the Workload API is gone: peers refuse it when it has expired.

    Args:
        settings: flags.
        stop: ends the wait for the first identity.

    Raises:
        Stopped: `stop` was set before there was one.
        Terminal: neither `--identity-socket` nor `--insecure` was given, or no identity came in time.
    """
    if settings.insecure:
        _log.warning("insecure: no TLS, and nobody proves who he is")
        yield None
        return
    if settings.identity_socket is None:
        raise Terminal(
            f"no identity: give --identity-socket (or {SOCKET_VARIABLE}), or --insecure to run without identities",
            reason="NoIdentity",
        )
    stream = _Stream(settings.identity_socket)
    following = asyncio.create_task(stream.follow())
    try:
        yield await stream.first(within=settings.identity_wait_seconds, stop=stop or asyncio.Event())
    finally:
        following.cancel()
        await asyncio.wait([following])


class _Stream:
    """One Workload API, asked again for as long as it takes."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._source: asyncio.Future[FixedIdentity] = asyncio.get_running_loop().create_future()
        self._came = False
        self._problem = "no answer"
        self._told: tuple[bool, str] | None = None

    async def first(self, *, within: float, stop: asyncio.Event) -> IdentitySource:
        """The source, as soon as it has an identity."""
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((self._source, stopping), timeout=within, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if self._source.done():
            return self._source.result()
        if stop.is_set():
            raise Stopped("no identity yet")
        raise Terminal(f"no identity from {self._socket} within {within:g} s: {self._problem}", reason="NoIdentity")

    async def follow(self) -> None:
        """Take identities until cancelled."""
        pause = _FIRST_PAUSE
        while True:
            self._came = False
            self._problem = await self._read()
            pause = _FIRST_PAUSE if self._came else min(2 * pause, _LONGEST_PAUSE)
            self._tell()
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter

    async def _read(self) -> str:
        """Take identities from one stream until it breaks; why it broke."""
        loop = asyncio.get_running_loop()
        broken: asyncio.Future[str] = loop.create_future()

        def on_success(context: X509Context) -> None:
            _hand_over(loop, self._take, context)

        def on_error(error: Exception) -> None:
            _hand_over(loop, _break, broken, str(error))

        try:
            client = WorkloadApiClient(self._socket)
        except (PySpiffeError, OSError, RuntimeError) as error:
            return str(error)
        with contextlib.closing(client):
            watch = client.stream_x509_contexts(on_success, on_error, retry_connect=False)
            try:
                return await broken
            finally:
                watch.cancel()

    def _take(self, context: X509Context) -> None:
        known = self._source.result().current if self._source.done() else None
        try:
            identity = _identity(context, known=known)
        except InvalidField as error:
            _log.error("identity refused", socket=self._socket, error=str(error))
            self._problem = str(error)
            return
        self._came, self._told = True, None
        if identity == known:  # as it is said again after each reconnection
            return
        metrics.SVID_END.set(identity.svid.expires.timestamp())
        _log.info("identity", spiffe_id=str(identity.svid.spiffe_id), expires=identity.svid.expires.isoformat())
        if self._source.done():
            self._source.result().replace(identity)
        else:
            self._source.set_result(FixedIdentity(identity))

    def _tell(self) -> None:
        """Log what is wrong, once for each thing that is."""
        expires = self._source.result().current.svid.expires if self._source.done() else None
        expired = expires is not None and expires <= datetime.now(UTC)
        if (expired, self._problem) != self._told:
            self._told = (expired, self._problem)
            log = _log.error if expired else _log.warning
            log("no Workload API", socket=self._socket, problem=self._problem, identity_expired=expired)


def _hand_over(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """From the package's thread, which may outlive the loop by a moment."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, *arguments)


def _break(broken: asyncio.Future[str], problem: str) -> None:
    if not broken.done():
        broken.set_result(problem)


def _identity(context: X509Context, *, known: Identity | None) -> Identity:
    """What we keep of an answer.

    Of several SVIDs the one with the ID that this process has stays: their order changes with every new registration.

    Raises:
        InvalidField: an ID or a chain that is none.
    """
    svids = [_svid(each) for each in context.x509_svids]
    kept = [svid for svid in svids if known is not None and svid.spiffe_id == known.svid.spiffe_id]
    return Identity(
        svid=(kept or svids)[0],
        bundles={
            TrustDomain(bundle.trust_domain.name): tuple(
                sorted(root.public_bytes(Encoding.DER) for root in bundle.x509_authorities)
            )
            for bundle in context.x509_bundle_set.bundles
        },
    )


def _svid(svid: X509Svid) -> Svid:
    key = svid.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return Svid.parse([certificate.public_bytes(Encoding.DER) for certificate in svid.cert_chain], key=key)
