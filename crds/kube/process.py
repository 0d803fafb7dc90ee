"""What every long-running process has: settings from flags and environment, logs, probes, a stop on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, TypeVar

import structlog
import uvloop
from aiohttp import web
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from crds.egress import EgressPolicy
from crds.errors import EdgeError, InvalidField, Stopped


class ProcessSettings(BaseSettings):
    """Flags of every process; each is also an environment variable `FLUIDOS_EDGE_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix="FLUIDOS_EDGE_",
        frozen=True,
        cli_parse_args=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    kubeconfig: Path | None = Field(
        default=None, description="kubeconfig file; the pod's ServiceAccount where none is given"
    )
    context: str | None = Field(
        default=None, description="context in the kubeconfig; its current one where none is given"
    )
    metrics_host: str = Field(default="127.0.0.1", description="address of /metrics, /healthz and /readyz")
    metrics_port: int = Field(default=0, ge=0, le=65535, description="their port; 0 takes a free one and logs it")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("kubeconfig")
    @classmethod
    def _is_there(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            msg = "a file that is there"
            raise ValueError(msg)
        return value


class EgressSettings(ProcessSettings):
    """Flags of every process that checks where endpoints are."""

    egress_allow: tuple[str, ...] = Field(
        default=(), description="CIDRs that endpoints may be in although they are special-use or refused"
    )
    egress_refuse: tuple[str, ...] = Field(
        default=(), description="CIDRs, such as the cluster's own, that no endpoint may be in"
    )
    allow_plain_http: bool = Field(
        default=False,
        description="deliver to endpoints without TLS, which prove nothing: for a network that is trusted",
    )
    allow_kafka: tuple[str, ...] = Field(
        default=(), description="host:port of the Kafka brokers that routes may name; no other is dialled"
    )

    @property
    def egress(self) -> EgressPolicy:
        """Where endpoints may be.

        Raises:
            InvalidField: names the CIDR that is none.
        """
        return EgressPolicy.parse(
            allowed=self.egress_allow,
            refused=self.egress_refuse,
            plain_http=self.allow_plain_http,
            kafka=self.allow_kafka,
        )


def listening_address(listen: str, *, example: str, flag: str = "--listen") -> tuple[str, int]:
    """Host and port of a flag.

    Args:
        listen: as it was given; an IPv6 address stands in brackets.
        example: for the message of an error.
        flag: its name, for the same.

    Raises:
        InvalidField: it is not host:port.
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise InvalidField(field=flag, value=listen, expected=f"host:port, such as {example}")
    return host.strip("[]"), int(port)


S = TypeVar("S", bound=ProcessSettings)


def settings_of(kind: type[S]) -> S:
    """Flags and environment of this process.

    Raises:
        SystemExit: with status 2, as argparse does it; each wrong flag is named with its value and what was expected.
    """
    try:
        return kind()
    except ValidationError as error:
        for each in error.errors(include_url=False):
            flag = "--" + str(each["loc"][0]).replace("_", "-")
            message = each["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            wrong = f"{each['input']!r} is not valid, expected {message}"
            told = "it is required" if each["type"] == "missing" else wrong
            print(f"error: {flag}: {told}", file=sys.stderr)
        raise SystemExit(2) from None


def configure_logging(level: str) -> None:
    """Readable lines on a terminal, JSON elsewhere; the libraries' loggers go the same way."""
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=processors,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    # It says that it leaves the signals to us, which is what we want.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    structlog.configure(
        processors=[*processors, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


@contextlib.asynccontextmanager
async def probes(*, host: str, port: int, ready: Callable[[], bool]) -> AsyncIterator[int]:
    """Serve /healthz (the loop turns), /readyz (`ready` says so) and /metrics; yields the port."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ready\n") if ready() else web.Response(status=503, text="not ready\n")

    async def metrics(_: web.Request) -> web.Response:
        # With thousands of series it takes a second, which whoever is served must not wait for.
        text = await asyncio.to_thread(generate_latest, REGISTRY)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound: int = runner.addresses[0][1]
        structlog.get_logger(__name__).info("probes", url=f"http://{host}:{bound}")
        yield bound
    finally:
        await runner.cleanup()


def run_process(main: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> int:
    """Run `main(stop)`; SIGTERM and SIGINT set `stop`. The exit status: 0, or 1 with the error logged."""

    async def guarded() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await main(stop)

    status = 0
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as running:
        try:
            running.run(guarded())
        except* Stopped:
            structlog.get_logger(__name__).info("stopped before the work had begun")
        except* EdgeError as errors:
            structlog.get_logger(__name__).error("stopped", errors=[str(error) for error in errors.exceptions])
            status = 1
    return status


async def until_stopped(stop: asyncio.Event, *work: Coroutine[Any, Any, None]) -> None:
    """Run all of `work` until `stop` is set or one of them ends, then cancel the rest; an error in one is raised."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            for task in tasks:
                task.cancel()
