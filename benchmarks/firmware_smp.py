"""SMP over UDP: what is left of smpclient's rate when an edge agent and mutual TLS are on the way to the board.

A simulated board, an edge agent's links and the runner's side are processes of their own. Each round uploads the same
image twice, by smpclient alone and by our way, so that what else the machine does meets both alike; the median of the
ratios counts.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop
from smpclient import SMPClient
from smpclient.requests.image_management import ImageErase
from smpclient.requests.os_management import EchoWrite
from smpclient.transport.udp import SMPUDPTransport

from benchmarks.report import Figure, spread
from flash_controller.domain.images import read_image
from flash_controller.protocols import open_updater
from scripts.simulator.firmware import Application, build
from scripts.testbed.processes import Child, free_port
from tests.flash_controller.links.station import NAMESPACE, Station

ROOT = Path(__file__).resolve().parent.parent
GOAL = 0.9
IMAGE_BYTES = 500_000
START_SECONDS = 60.0
DEVICE = "board"


def measure(*, rounds: int) -> list[Figure]:
    """Upload so many times each way."""
    station = Station()
    ours, theirs = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory(prefix="fluidos-bench-smp-") as folder:
        directory, port = Path(folder), free_port()
        agent = multiprocessing.get_context("fork").Process(target=_agent, args=(station, port, theirs), daemon=True)
        agent.start()
        try:
            if not ours.poll(START_SECONDS):
                raise TimeoutError(f"the agent's links do not open within {START_SECONDS:g} s")
            station.url = ours.recv()
            with _board(directory, port), asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
                return loop.run(_compare(station, port, rounds=rounds))
        finally:
            agent.terminate()
            agent.join()


def _agent(station: Station, port: int, opened: Connection) -> None:
    async def serve() -> None:
        station.device(DEVICE, protocol="MCUmgrUDP", address=f"127.0.0.1:{port}")
        async with station.serve():
            opened.send(station.url)
            await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(serve())


def _image(version: str) -> bytes:
    return build(Application(application="bench"), version=version, security_counter=1, size=IMAGE_BYTES)


def _board(directory: Path, port: int) -> Child:
    first = directory / "first.bin"
    first.write_bytes(_image("1.0.0"))
    board = {
        "device": DEVICE,
        "slots": str(directory / "flash"),
        "image": str(first),
        "update": f"udp://127.0.0.1:{port}",
    }
    fleet = directory / "devices.json"
    fleet.write_text(json.dumps([board]))
    command = [sys.executable, "-m", "scripts.simulator", "--devices", str(fleet)]
    return Child(name="simulator", command=command, directory=ROOT, logs=directory)


@asynccontextmanager
async def _alone(port: int) -> AsyncIterator[SMPClient]:
    transport = SMPUDPTransport()
    await transport.connect("127.0.0.1", START_SECONDS, port)
    try:
        yield SMPClient(transport, "127.0.0.1", timeout_s=10)
    finally:
        await transport.disconnect()


async def _compare(station: Station, port: int, *, rounds: int) -> list[Figure]:
    image = _image("2.0.0")
    async with asyncio.timeout(START_SECONDS):
        await _ready(port)
    rates: dict[str, list[float]] = {"alone": [], "ours": []}
    for number in range(rounds):
        for way in ("alone", "ours") if number % 2 else ("ours", "alone"):
            seconds = await (_upload_alone(port, image) if way == "alone" else _upload(station, image))
            rates[way].append(len(image) / seconds / 1000)
            async with _alone(port) as client:
                await client.request(ImageErase())
    ratios = [ours / alone for ours, alone in zip(rates["ours"], rates["alone"], strict=True)]
    return [
        Figure(
            key="smpShareOfSmpclient",
            text="SMP over UDP through the agent, share of smpclient alone",
            value=statistics.median(ratios),
            goal=GOAL,
            holds="at least",
            peer=f"kB/s: ours {spread(rates['ours'])}, alone {spread(rates['alone'])}",
        )
    ]


async def _ready(port: int) -> None:
    while True:
        async with _alone(port) as client:
            try:
                await client.request(EchoWrite(d="up?"), timeout_s=1)
            except (TimeoutError, OSError):
                continue
            return


async def _upload_alone(port: int, image: bytes) -> float:
    async with _alone(port) as client:
        began = time.perf_counter()
        async for _ in client.upload(image):
            pass
        return time.perf_counter() - began


async def _upload(station: Station, image: bytes) -> float:
    measurement = read_image(image).measurement
    async with station.runner() as agent:
        link = await agent.lease(NAMESPACE, DEVICE)
        updater = open_updater("MCUmgrUDP", link, tls=ssl.create_default_context(), judge=lambda _, __: None)
        began = time.perf_counter()
        await updater.write(image, measurement=measurement, progress=lambda _, __: None)
        seconds = time.perf_counter() - began
        await updater.close()
        return seconds
