"""The relay and its broker prove to each other who they are, over mutual TLS with SVIDs."""

import asyncio
import getpass
import shutil
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from scripts.testbed.broker import SEARCH_PATH
from scripts.testbed.processes import Child, accepts, free_port
from spire.domain.authorization import any_known, exactly, under
from spire.helper import api, files
from spire.helper.held import Granted, Held, Latest
from spire.identity import FixedIdentity, Identity
from spire.tls import client_context, server_context
from tests.relay.support import (
    Target,
    endpoint,
    numbered,
    publish_all,
    relay,
    route,
    serve,
    serving,
    session_of,
    table,
    until,
)
from tests.relay.test_process import RelayProcess
from tests.spire.pki import Ca

pytestmark = pytest.mark.broker
OWN, OTHER = Ca.of("provider.test"), Ca.of("consumer.test")
RELAY = OWN.identity("/relay/edge-1", knows=[OTHER])
BROKER = OWN.trust_domain.spiffe_id("broker", "edge-1")


@contextmanager
def mosquitto(directory: Path, identity: Identity) -> Iterator[int]:
    """A broker that takes whoever has an SVID of its own trust domain."""
    files.write(directory / "tls", identity)
    port = free_port()
    configuration = directory / "mosquitto.conf"
    configuration.write_text(
        f"listener {port} 127.0.0.1\n"
        f"cafile {directory}/tls/own.pem\ncertfile {directory}/tls/svid.pem\nkeyfile {directory}/tls/key.pem\n"
        f"require_certificate true\nallow_anonymous true\nuser {getpass.getuser()}\n"
    )
    command = [shutil.which("mosquitto", path=SEARCH_PATH) or "mosquitto", "-c", str(configuration)]
    with Child(name="mosquitto", command=command, directory=directory) as child:
        child.wait_until(lambda: accepts(port), what="the broker", limit=10)
        yield port


def towards_broker(identity: FixedIdentity) -> ssl.SSLContext:
    return client_context(identity, authorize=exactly(BROKER))


def publisher() -> ssl.SSLContext:
    return client_context(FixedIdentity(OWN.identity("/device/0102/app/a")), authorize=any_known())


async def test_readings_come_over_mutual_tls_also_while_the_identity_is_renewed(tmp_path: Path) -> None:
    source = FixedIdentity(RELAY)
    with mosquitto(tmp_path, OWN.identity("/broker/edge-1")) as port:
        async with (
            serving(Target()) as target,
            relay(tmp_path / "state", port, tls=towards_broker(source)) as running,
        ):
            await serve(running, route(endpoint(target)))
            for start in range(0, 1000, 100):
                await publish_all(port, numbered(range(start, start + 100)), tls=publisher())
                source.replace(OWN.identity("/relay/edge-1"))
            await until(lambda: target.ids == list(range(1000)))
            assert running.connections_lost == 0


@pytest.mark.parametrize(
    "identity",
    [
        pytest.param(OWN.identity("/broker/edge-2"), id="broker of another node"),
        pytest.param(OWN.identity("/device/0102/app/a"), id="device"),
        pytest.param(OTHER.identity("/broker/edge-1"), id="broker of another trust domain"),
    ],
)
async def test_another_broker_is_told_nothing(tmp_path: Path, identity: Identity) -> None:
    with mosquitto(tmp_path, identity) as port:
        async with relay(tmp_path / "state", port, tls=towards_broker(FixedIdentity(RELAY))) as running:
            running.apply(table(route(endpoint("http://127.0.0.1:9/"))))
            await until(lambda: running.connections_lost >= 2)
            assert not session_of(running).connected


@asynccontextmanager
async def workload_api(directory: Path, identity: Identity) -> AsyncIterator[tuple[Path, Latest[Held]]]:
    held: Latest[Held] = Latest(Granted(identity))
    async with api.serve(directory / "workload.sock", held):
        yield directory / "workload.sock", held


async def test_as_a_process_it_takes_its_identity_from_the_workload_api(tmp_path: Path) -> None:
    target = Target(tls=server_context(FixedIdentity(OWN.identity("/endpoint/a/b")), authorize=under("/relay/")))
    with mosquitto(tmp_path, OWN.identity("/broker/edge-1")) as port:
        async with serving(target), workload_api(tmp_path / "api", RELAY) as (socket, held):
            flags = ("--identity-socket", str(socket))
            process = RelayProcess(tmp_path, f"mqtts://127.0.0.1:{port}", target.url, identity=flags)
            try:
                await process.ready()
                await publish_all(port, numbered(range(100)), tls=publisher())
                await until(lambda: target.ids == list(range(100)))
                held.set(Granted(OWN.identity("/relay/edge-1")))
                await publish_all(port, numbered(range(100, 200)), tls=publisher())
                await until(lambda: target.ids == list(range(200)))
                await asyncio.to_thread(process.child.stop)
                assert process.child.exit_code == 0
            finally:
                process.child.kill()
