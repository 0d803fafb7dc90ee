"""The gateway as its own process, under its own account: it may be killed at any moment."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from cryptography import x509

from scripts.testbed.cluster import Cluster
from scripts.testbed.processes import Child, free_port
from spire.domain.authorization import under
from spire.helper.api import serve
from spire.helper.held import Granted, Held, Latest
from spire.identity import FixedIdentity
from spire.serving.guard import Guard
from spire.tls import client_context
from tests.edge_resource_manager.gateway import samples
from tests.edge_resource_manager.gateway.conftest import eventually, flags
from tests.spire.pki import Ca

REPOSITORY = Path(__file__).resolve().parents[3]
URL = "http://127.0.0.1:{port}/api/v2"


@dataclass
class Process:
    """A gateway that can be killed and comes back on the same port."""

    cluster: Cluster
    directory: Path
    port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    child: Child | None = None
    lives: int = 0
    identity_socket: Path | None = None

    @property
    def url(self) -> str:
        return URL.format(port=self.port)

    def start(self) -> Child:
        account = self.cluster.service_account_kubeconfig("fluidos", "rear-gateway")
        listen = f"127.0.0.1:{self.port}"
        arguments = flags(account, listen=listen, metrics_port=self.metrics_port, identity_socket=self.identity_socket)
        command = [sys.executable, "-m", "edge_resource_manager.gateway", *arguments]
        self.lives += 1
        self.child = Child(name="gateway", command=command, directory=REPOSITORY, logs=self.directory)
        return self.child

    def kill_and_start(self) -> None:
        assert self.child is not None
        self.child.kill()
        self.start()

    async def ready(self, http: aiohttp.ClientSession) -> bool:
        try:
            async with http.get(f"http://127.0.0.1:{self.metrics_port}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            assert self.child is not None
            assert self.child.exit_code is None, self.child.tail()
            return False


@asynccontextmanager
async def started(
    cluster: Cluster, directory: Path, *, identity_socket: Path | None = None
) -> AsyncIterator[tuple[Process, aiohttp.ClientSession]]:
    process = Process(cluster, directory, identity_socket=identity_socket)
    async with aiohttp.ClientSession() as http:
        try:
            process.start()
            await eventually(lambda: process.ready(http), "ready")
            yield process, http
            assert process.child is not None
            log = process.child.log.read_text()
            assert "Traceback" not in log
            # The authorizer's words: the end of another test's namespace is a 403 as well.
            assert "is forbidden: User" not in log
        finally:
            if process.child is not None:
                process.child.stop()


async def test_a_kill_in_mid_purchase_sells_nothing_twice(
    provider_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    provider_cluster.apply([samples.sensor("a", namespace=namespace, additional={"maxConsumers": "10"})])
    flavor = samples.named("a", namespace)
    async with started(provider_cluster, tmp_path) as (process, http):
        reserved: list[str] = []
        bought: set[str] = set()

        async def reserve(buyer: str) -> str | None:
            async with http.post(f"{process.url}/reservations", json=samples.wish(flavor, buyer_id=buyer)) as answer:
                assert answer.status in (200, 404, 503), await answer.text()
                body = await answer.json(content_type=None)
                return body["transactionID"] if answer.status == 200 else None

        async def purchase(transaction: str) -> str | None:
            async with http.post(f"{process.url}/transactions/{transaction}/purchase") as answer:
                assert answer.status in (200, 503), await answer.text()
                return (await answer.json())["contractID"] if answer.status == 200 else None

        async def buy(buyer: str) -> None:
            """As a claim does: the same wish again until there is a contract."""
            for _ in range(600):
                with suppress(aiohttp.ClientError):
                    transaction = await reserve(buyer)
                    if transaction:
                        reserved.append(transaction)
                        if len(reserved) in (3, 12):  # between RESERVE and PURCHASE, with the others on their way
                            process.kill_and_start()
                        contract = await purchase(transaction)
                        if contract:
                            bought.add(contract)
                            return
                await asyncio.sleep(0.05)

        buyers = [f"buyer-{number}" for number in range(10)]
        await asyncio.gather(*(buy(each) for each in buyers))
        path = f"/apis/reservation.fluidos.eu/v1alpha1/namespaces/{namespace}/contracts"
        items = provider_cluster.api.request("GET", path)["items"]
        assert {each["metadata"]["name"] for each in items} == bought
        assert sorted(each["spec"]["buyer"]["nodeID"] for each in items) == buyers
        assert process.lives >= 2
        # The eleventh finds the flavor sold out: the new life knows what the old one sold.
        async with http.post(f"{process.url}/reservations", json=samples.wish(flavor, buyer_id="eleventh")) as answer:
            assert answer.status == 409


async def test_it_stops_within_its_time_with_a_stream_open(provider_cluster: Cluster, tmp_path: Path) -> None:
    async with (
        started(provider_cluster, tmp_path) as (process, http),
        http.get(f"{process.url}/flavors/sensors/events") as stream,
    ):
        await stream.content.readline()
        assert process.child is not None
        process.child.terminate()
        assert await asyncio.to_thread(process.child.wait, limit=5.0) == 0
        assert await stream.content.read() == b""


async def test_figures_are_served_beside_the_gateway_and_never_on_its_port(
    provider_cluster: Cluster, tmp_path: Path
) -> None:
    async with started(provider_cluster, tmp_path) as (process, http):
        async with http.get(f"{process.url}/flavors/sensors") as answer:
            assert answer.status == 200
        async with http.get(f"http://127.0.0.1:{process.metrics_port}/metrics") as answer:
            text = await answer.text()
        assert (
            'fluidos_edge_gateway_requests_total{method="GET",route="/api/v2/flavors/sensors",status="200"} 1.0' in text
        )
        async with http.get(f"http://127.0.0.1:{process.port}/metrics") as answer:
            assert answer.status == 404


async def test_a_crowd_of_slow_handshakes_holds_up_nobody(provider_cluster: Cluster, tmp_path: Path) -> None:
    seller, consumer = Ca.of("provider"), Ca.of("consumer")
    held = Latest[Held](Granted(seller.identity("/manager/rear-gateway", knows=(consumer,))))
    source = FixedIdentity(consumer.identity("/manager/edge-resource-manager", knows=(seller,)))
    tls = client_context(source, authorize=under("/manager/rear-gateway"))
    async with (
        serve(tmp_path / "identity" / "socket", held),
        started(provider_cluster, tmp_path, identity_socket=tmp_path / "identity" / "socket") as (process, http),
    ):
        url = process.url.replace("http:", "https:")

        async def shown() -> int:
            """The certificate that a new connection is shown."""
            _, writer = await asyncio.open_connection("127.0.0.1", process.port, ssl=tls)
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            return x509.load_der_x509_certificate(der).serial_number

        async with http.get(f"{url}/flavors/sensors/events", ssl=tls) as stream:
            await stream.content.readline()
            crowd = [await asyncio.open_connection("127.0.0.1", process.port) for _ in range(3 * Guard.max_handshakes)]
            for _, writer in crowd[::2]:
                writer.write(b"\x16\x03\x01\x02\x00")  # the beginning of a ClientHello
            before = await shown()
            async with http.get(f"{url}/flavors/sensors", ssl=tls) as answer:
                assert answer.status == 200
            # The oldest went for the newest, and what was let in has its time.
            for reader, _ in crowd[: Guard.max_handshakes]:
                await asyncio.wait_for(_ended(reader), 1)
            for reader, writer in crowd:
                await asyncio.wait_for(_ended(reader), 4 * Guard.handshake_seconds)
                writer.close()
            held.set(Granted(seller.identity("/manager/rear-gateway", knows=(consumer,))))

            async def renewed() -> bool:
                return await shown() != before

            await eventually(renewed, "new connections are shown the new certificate")
            assert await stream.content.readline()  # it went on all the time
            assert process.child is not None
            process.child.terminate()
            assert await asyncio.to_thread(process.child.wait, limit=8.0) == 0


async def _ended(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        assert await reader.read() == b""


async def test_a_port_that_is_taken_is_told(provider_cluster: Cluster, tmp_path: Path) -> None:
    async with started(provider_cluster, tmp_path) as (process, _):
        second = Process(provider_cluster, tmp_path / "second", port=process.port).start()
        assert await asyncio.to_thread(second.wait, limit=20.0) == 1
        assert f"--listen 127.0.0.1:{process.port}" in second.log.read_text()


def test_flags_that_make_no_sense_are_told(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        child = Child(
            name=f"gateway-{len(list(tmp_path.iterdir()))}",
            command=[sys.executable, "-m", "edge_resource_manager.gateway", *arguments],
            directory=REPOSITORY,
            logs=tmp_path,
        )
        assert child.wait(limit=30.0) != 0
        return child.log.read_text()

    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
        "contexts: [{name: x, context: {cluster: x, user: x}}]\n"
        "clusters: [{name: x, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: [{name: x, user: {}}]\n"
    )
    alone = run("--kubeconfig", str(kubeconfig))
    assert "--identity-socket" in alone
    assert "--insecure" in alone
    good = ("--kubeconfig", str(kubeconfig), "--insecure")
    assert "host:port" in run(*good, "--listen", "3004")
    assert "a CIDR such as" in run(*good, "--egress-refuse", "10.0.0.0/99")
    assert "/nowhere" in run("--kubeconfig", "/nowhere")
