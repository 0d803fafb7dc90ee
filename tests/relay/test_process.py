"""The relay as its own process: killed in mid-flood, terminated, without an API server."""

import asyncio
import json
import sys
import urllib.request
from pathlib import Path

import pytest

from crds.models.delivery import Endpoint
from scripts.testbed.broker import Broker
from scripts.testbed.processes import Child, free_port
from tests.relay.support import Target, numbered, publish_all, route, serving, status, table, until

pytestmark = pytest.mark.broker
ROOT = Path(__file__).parent.parent.parent
NOWHERE = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "none",
    "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:9"}}],
    "users": [{"name": "none", "user": {}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
}


class RelayProcess:
    """`python -m router_manager.relay`, with `url` on the table of a last life and its API server away."""

    def __init__(
        self,
        directory: Path,
        broker: str | None,
        url: str | None = None,
        *,
        kubeconfig: Path | None = None,
        identity: tuple[str, ...] = ("--insecure",),
    ) -> None:
        self.state = directory / "relay"
        self.state.mkdir()
        self.probes = free_port()
        if kubeconfig is None:
            kubeconfig = self.state / "kubeconfig"
            kubeconfig.write_text(json.dumps(NOWHERE))
        if url is not None:
            routes = table(route(Endpoint(name="target", url=url)))
            (self.state / "table.json").write_text(routes.model_dump_json(by_alias=True))
        flags = {
            "--node": "edge-1",
            **({} if broker is None else {"--broker": broker}),
            "--state-dir": self.state,
            "--kubeconfig": kubeconfig,
            "--metrics-port": self.probes,
            "--egress-allow": "127.0.0.0/8",
            "--drain-seconds": 10,
        }
        words = [str(word) for pair in flags.items() for word in pair]
        self._command = [sys.executable, "-m", "router_manager.relay", *identity, *words]
        self.start()

    def start(self) -> None:
        self.child = Child(name="relay", command=self._command, directory=ROOT, logs=self.state)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.probes}{path}", timeout=2) as answer:
            return str(answer.read().decode())

    async def ready(self) -> None:
        await asyncio.to_thread(self.child.wait_until, self._ready, what="/readyz", limit=30)

    def _ready(self) -> bool:
        try:
            return self.get("/readyz") == "ready\n"
        except OSError:
            return False


def more_than(target: Target, seen: int, total: int) -> bool:
    return len(target.accepted) > seen or len(set(target.ids)) == total


async def test_a_target_that_comes_back_gets_all_that_was_spooled_before_a_kill(tmp_path: Path, broker: Broker) -> None:
    async with serving(Target(always=status(503, Retry_After="0"))) as target:
        process = RelayProcess(tmp_path, broker.url, target.url)
        try:
            await process.ready()
            await publish_all(broker.port, numbered(range(300)))
            await until(lambda: target.bodies)
            await asyncio.to_thread(
                process.child.wait_until, lambda: "received_total 300" in process.get("/metrics"), what="300 received"
            )
            process.child.kill()
            target.always = None
            process.start()
            await until(lambda: len(set(target.ids)) == 300)
        finally:
            process.child.kill()


async def test_sigterm_drains_and_exits_with_0(tmp_path: Path, broker: Broker) -> None:
    async with serving(Target()) as target:
        process = RelayProcess(tmp_path, broker.url, target.url)
        try:
            await process.ready()
            await publish_all(broker.port, numbered(range(200)))
            await until(lambda: target.accepted)
            await asyncio.to_thread(process.child.stop)
            assert process.child.exit_code == 0
            process.start()
            await publish_all(broker.port, numbered(range(200, 300)))
            await until(lambda: len(set(target.ids)) == 300)
            assert target.ids == list(range(300)), "nothing twice after an orderly stop"
        finally:
            process.child.kill()


async def test_metrics_tell_what_was_done(tmp_path: Path, broker: Broker) -> None:
    async with serving(Target()) as target:
        process = RelayProcess(tmp_path, broker.url, target.url)
        try:
            await process.ready()
            await publish_all(broker.port, numbered(range(10)))
            await until(lambda: len(target.accepted) == 10)
            text = await asyncio.to_thread(process.get, "/metrics")
        finally:
            process.child.kill()
    lane = 'namespace="test",route="route-1",target="target"'
    assert "fluidos_edge_relay_received_total 10.0" in text
    assert f"fluidos_edge_relay_delivered_total{{{lane}}} 10.0" in text
    assert f"fluidos_edge_relay_backlog_records{{{lane}}} 0.0" in text
    assert f"fluidos_edge_relay_backlog_bytes{{{lane}}} 0.0" in text
    assert f"fluidos_edge_relay_lag_seconds{{{lane}}} 0.0" in text
    assert f'fluidos_edge_relay_delivery_latency_seconds_bucket{{le="+Inf",{lane}}} 10.0' in text


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--broker", "http://127.0.0.1", "expected mqtts://host"),
        ("--broker", "mqtt://127.0.0.1", "mqtt:// is for --insecure"),
        ("--identity-socket", "here", "expected an absolute path"),
        ("--log-level", "info", "give --identity-socket (or SPIFFE_ENDPOINT_SOCKET), or --insecure"),
        ("--node", "Edge_1", "String should match pattern"),
        ("--egress-allow", "10.0.0.0/99", "egress.allow"),
        ("--mqtt-version", "4", "expected '3.1.1' or '5'"),
        ("--listen", "8883", "expected host:port"),
        ("--listen", "127.0.0.1:many", "expected host:port"),
        ("--listen-rate", "0", "listen-rate"),
    ],
)
async def test_a_wrong_flag_is_told_by_name(tmp_path: Path, flag: str, value: str, message: str) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.touch()
    flags = {"--node": "edge-1", "--state-dir": str(tmp_path), "--kubeconfig": str(kubeconfig), flag: value}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "router_manager.relay", *[word for pair in flags.items() for word in pair],
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert process.returncode not in (0, None)
    assert message in output.decode()
