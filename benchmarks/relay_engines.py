"""The relay, and its peers: Telegraf and posters of single messages."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.relay_identities import NODE, TRUST_DOMAIN
from benchmarks.relay_programs import telegraf
from benchmarks.relay_stage import SINK, TOPICS, Broker, Stage
from crds.models.dataroute import ResolvedSource
from crds.models.delivery import Endpoint
from router_manager.domain.table import Route, Table
from scripts.testbed.processes import Child, free_port

FILTER = "sensors/#"


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """The relay's own process with spool and fdatasync, on the table of its last life: its API server is away.

    Attributes:
        routes: what it serves; by default one, with all topics and the one target.
        flags: more for its command line.
    """

    name = "relay"
    routes: tuple[Route, ...] = ()
    flags: tuple[str, ...] = ()

    def start(self, stage: Stage, *, broker: Broker, state: Path) -> Child:
        kubeconfig = state / "kubeconfig"
        kubeconfig.write_text(json.dumps(_nowhere()))
        table = Table(routes=self.routes or (route("bench", TOPICS, [target(SINK, stage.url())]),))
        (state / "table.json").write_text(table.model_dump_json(by_alias=True))
        return start_relay(stage, broker=broker, state=state, kubeconfig=kubeconfig, flags=self.flags)


def start_relay(stage: Stage, *, broker: Broker, state: Path, kubeconfig: Path, flags: Sequence[str] = ()) -> Child:
    """A relay that is ready."""
    probes = free_port()
    values = {
        "--node": NODE,
        "--broker": f"{'mqtts' if stage.secured else 'mqtt'}://127.0.0.1:{broker.port}",
        "--state-dir": state,
        "--kubeconfig": kubeconfig,
        "--metrics-port": probes,
        "--egress-allow": "127.0.0.0/8",
        **({"--identity-socket": stage.secured.socket} if stage.secured else {}),
    }
    words = [str(word) for pair in values.items() for word in pair]
    insecure = [] if stage.secured else ["--insecure"]
    child = stage.child("relay", sys.executable, "-m", "router_manager.relay", *insecure, *words, *flags)
    child.wait_until(lambda: _ready(probes), what="/readyz of the relay", limit=60)
    return child


def target(name: str, url: str) -> Endpoint:
    """By HTTP."""
    return Endpoint(name=name, url=url)


def route(uid: str, topics: Sequence[str], targets: Sequence[Endpoint]) -> Route:
    """With a flavor for each topic."""
    sources = tuple(
        ResolvedSource(
            flavor=f"{uid}-{number}", device=f"{uid}-sensor-{number}", sensor="humidity", node=NODE, topic=topic
        )
        for number, topic in enumerate(topics)
    )
    return Route(
        uid=uid, namespace="bench", name=uid, sources=sources, targets=tuple(targets), trust_domain=TRUST_DOMAIN
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Telegraf:
    """mqtt_consumer to http, JSON in and out; of the payload it carries the numbers alone, which speaks in its favour.

    Attributes:
        flush: its interval; None is Telegraf as it comes: 10 s, QoS 0, no persistent session.
    """

    flush: str | None

    @property
    def name(self) -> str:
        return "Telegraf, defaults" if self.flush is None else f"Telegraf, flush {self.flush}"

    def start(self, stage: Stage, *, broker: Broker, state: Path) -> Child:
        configuration = state / "telegraf.conf"
        configuration.write_text(self._configuration(stage, broker))
        child = stage.child("telegraf", str(telegraf()), "--config", str(configuration))
        child.wait_until(lambda: "Connected [" in child.tail(), what="its subscription", limit=30)
        return child

    def _configuration(self, stage: Stage, broker: Broker) -> str:
        scheme, files = "tcp", ""
        if stage.secured is not None:
            pem = stage.secured.client
            scheme = "ssl"
            files = (
                f'tls_cert = "{pem.certificate}"\ntls_key = "{pem.key}"\ntls_ca = "{pem.roots}"\n'
                'tls_server_name = "localhost"\n'
            )
        tuned = "" if self.flush is None else "qos = 1\npersistent_session = true\nmax_undelivered_messages = 10000\n"
        agent = "" if self.flush is None else f'flush_interval = "{self.flush}"\nmetric_buffer_limit = 100000\n'
        return f"""\
[agent]
{agent}[[inputs.mqtt_consumer]]
servers = ["{scheme}://127.0.0.1:{broker.port}"]
topics = ["{FILTER}"]
client_id = "telegraf"
data_format = "json"
{tuned}{files}
[[outputs.http]]
url = "{stage.url()}"
method = "POST"
data_format = "json"
{files}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Poster:
    """A POST for each message, without a store: over kept connections, or each over a new one, as KubeEdge's router."""

    inflight: int

    @property
    def name(self) -> str:
        return f"poster, {self.inflight} in flight" if self.inflight else "KubeEdge's shape"

    def start(self, stage: Stage, *, broker: Broker, state: Path) -> Child:  # noqa: ARG002 - it has no state
        words = ["-broker", f"127.0.0.1:{broker.port}", "-filter", FILTER, "-target", stage.url()]
        secured = stage.secured.client.flags if stage.secured else []
        child = stage.gauge("post", *words, "-inflight", str(self.inflight), *secured)
        child.wait_until(lambda: "ready" in child.tail(), what="its subscription", limit=20)
        return child


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _nowhere() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "none",
        "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "none", "user": {}}],
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    }
