"""The plug-in side of go-plugin: what SPIRE, as the host, wants of a process that it started.

One line on standard output says where the process serves; everything else there would be fatal, so logs go to standard
error, as JSON that SPIRE takes over. The socket has no authentication: it lies in a folder of the process's own.
Source: hashicorp/go-plugin (client.go, grpc_server.go), spire-plugin-sdk (private/init.proto).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import grpc
import grpc.aio

from crds.errors import EdgeError
from spire.proto import spire_pb2 as pb

_STOP_SECONDS: Final = 1.0
"""go-plugin kills two seconds after it asked."""
_ANSWER_SECONDS: Final = 0.05
"""For the answer to the request to stop."""
_MAX_STREAMS: Final = 8192
"""Far more than may be open: with 1,024 an honest stream was seen refused in a crowd of 512."""

_NOTHING: tuple[Any, ...] = ()

_INIT = "spire.service.private.init.v1.Init"
_CONFIG = "spire.service.common.config.v1.Config"

# grpc-stubs has them generic, grpcio has not.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Handlers: TypeAlias = dict[str, Handler]
Service: TypeAlias = "grpc.GenericRpcHandler[Any, Any]"


class Plugin(Protocol):
    """What one plug-in adds to what all have.

    Attributes:
        type: magic cookie of go-plugin: `NodeAttestor` or `CredentialComposer`.
        service: full name of the gRPC service.
    """

    type: str
    service: str

    def handlers(self) -> Handlers:
        """Methods of the service."""

    def configure(self, *, trust_domain: str, text: str) -> Callable[[], None]:
        """Read a configuration; what is returned makes it the one in force.

        Raises:
            EdgeError: it cannot be used; the one in force stays.
        """


def log(level: str, message: str, **fields: object) -> None:
    """One line for SPIRE's log. go-plugin takes these three keys for strings without looking."""
    said = {"@level": level, "@message": message, "@timestamp": _now(), **{key: str(it) for key, it in fields.items()}}
    sys.stderr.write(json.dumps(said) + "\n")
    sys.stderr.flush()


def run(plugin: Plugin) -> int:
    """Serve until the host says stop or goes away; the exit status."""
    if os.environ.get(plugin.type) != plugin.type:
        sys.stderr.write(f"This is a SPIRE plug-in of type {plugin.type}: SPIRE starts it, see spire/README.md.\n")
        return 1
    os.umask(0o077)
    asyncio.run(_serve(plugin))
    return 0


async def _serve(plugin: Plugin) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Both go to all processes of a service or a terminal: SPIRE still needs us for what it has in hand, then asks.
        loop.add_signal_handler(number, lambda: None)
    with tempfile.TemporaryDirectory(prefix="fluidos-edge-plugin-") as folder:
        # SPIRE kills a plug-in whose configuration it only wanted to look at, and its folder stays, empty.
        path = Path(folder) / "plugin.sock"
        server = grpc.aio.server(options=[("grpc.max_concurrent_streams", _MAX_STREAMS)])
        server.add_generic_rpc_handlers(_Common(plugin, stop=stop).services())
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        sys.stdout.write(f"1|1|unix|{path}|grpc|\n")
        sys.stdout.flush()
        parent = asyncio.create_task(_orphaned(stop))
        await stop.wait()
        parent.cancel()
        await server.stop(_STOP_SECONDS)


class _Common:
    """The services that every plug-in has."""

    def __init__(self, plugin: Plugin, *, stop: asyncio.Event) -> None:
        self._plugin = plugin
        self._stop = stop

    def services(self) -> tuple[Service, ...]:
        """These, and the plug-in's own."""
        empty = pb.Empty
        config = {"Configure": unary(self._configure, pb.ConfigureRequest)}
        config["Validate"] = unary(self._validate, pb.ConfigureRequest)
        output = grpc.unary_stream_rpc_method_handler(
            self._standard_output, request_deserializer=empty.FromString, response_serializer=_bytes
        )
        # go-plugin's health check: {string service = 1} and {enum status = 1, of which 1 is SERVING}.
        healthy = grpc.unary_unary_rpc_method_handler(_healthy, response_serializer=bytes)
        methods: dict[str, Handlers] = {
            _INIT: {"Init": unary(self._init, pb.InitRequest), "Deinit": unary(_nothing, empty)},
            _CONFIG: config,
            "plugin.GRPCController": {"Shutdown": unary(self._shut_down, empty)},
            "plugin.GRPCBroker": {"StartStream": stream(_listen, pb.ConnInfo)},
            "plugin.GRPCStdio": {"StreamStdio": output},
            "grpc.health.v1.Health": {"Check": healthy},
            self._plugin.service: self._plugin.handlers(),
        }
        return tuple(grpc.method_handlers_generic_handler(name, handlers) for name, handlers in methods.items())

    async def _init(self, _: Any, __: Context) -> Any:
        return pb.InitResponse(plugin_service_names=[self._plugin.service, _CONFIG])

    async def _configure(self, request: Any, context: Context) -> Any:
        try:
            apply = self._read(request)
        except EdgeError as error:
            log("error", "configuration refused", error=error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        apply()
        log("info", "configured")
        return pb.Empty()

    async def _validate(self, request: Any, _: Context) -> Any:
        try:
            self._read(request)
        except EdgeError as error:
            return pb.ValidateResponse(valid=False, notes=[str(error)])
        return pb.ValidateResponse(valid=True)  # with any note SPIRE would call it invalid

    def _read(self, request: Any) -> Callable[[], None]:
        return self._plugin.configure(
            trust_domain=request.core_configuration.trust_domain, text=request.hcl_configuration
        )

    async def _shut_down(self, _: Any, __: Context) -> Any:
        asyncio.get_running_loop().call_later(_ANSWER_SECONDS, self._stop.set)
        return pb.Empty()

    async def _standard_output(self, _: Any, __: Context) -> AsyncIterator[Any]:
        await self._stop.wait()
        for nothing in _NOTHING:
            yield nothing


def unary(handler: Callable[[Any, Context], Awaitable[Any]], request: Any) -> Handler:
    """One message in, one out."""
    return grpc.unary_unary_rpc_method_handler(
        handler, request_deserializer=request.FromString, response_serializer=_bytes
    )


def stream(
    handler: Callable[[AsyncIterator[Any], Context], AsyncIterator[Any] | Awaitable[None]], request: Any
) -> Handler:
    """Messages in, messages out: those that the handler yields, or writes into the context."""
    return grpc.stream_stream_rpc_method_handler(
        handler, request_deserializer=request.FromString, response_serializer=_bytes
    )


async def _listen(requests: AsyncIterator[Any], _: Context) -> AsyncIterator[Any]:
    """The host says here where its own services are, which we do not use. Without a reader some starts fail."""
    async for _info in requests:
        continue
    for nothing in _NOTHING:
        yield nothing


async def _nothing(_: Any, __: Context) -> Any:
    return pb.Empty()


async def _healthy(_: Any, __: Context) -> bytes:
    return b"\x08\x01"


async def _orphaned(stop: asyncio.Event) -> None:
    """The kernel kills the plug-in of a dead SPIRE on Linux; elsewhere a new parent tells."""
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - the kernel has no event for it
        await asyncio.sleep(1)
    stop.set()


def _bytes(message: Any) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
