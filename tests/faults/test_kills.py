"""SIGKILL at random moments of the flow: nothing that was acknowledged is lost, and a kill repeats at most a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.testbed.broker import Broker
from scripts.testbed.cluster import Cluster
from tests.faults.site import RATE, TOPICS, site, strike
from tests.relay.support import source

MOST_IN_FLIGHT = 2500
"""What comes twice behind a broker: the window that the relay gives it, and a batch ahead of the relay's disk."""
SAVING_SECONDS = 1
"""How long mosquitto may take to save what it holds; meanwhile it acknowledges more."""


def test_a_killed_relay_loses_nothing_that_its_listener_acknowledged(tmp_path: Path) -> None:
    with site(tmp_path) as running:
        running.settle(faults=strike(running.relay, running, "relay"))


def test_a_killed_target_gets_again_what_it_did_not_answer(tmp_path: Path) -> None:
    with site(tmp_path) as running:
        running.settle(faults=strike(running.sink, running, "sink"))


@pytest.mark.broker
def test_a_killed_relay_gets_from_the_broker_what_it_had_not_acknowledged(tmp_path: Path, broker: Broker) -> None:
    with site(tmp_path, broker=broker.url, port=broker.port) as running:
        running.settle(faults=strike(running.relay, running, "relay behind a broker"), most_again=MOST_IN_FLIGHT)


@dataclass(frozen=True, slots=True)
class Mosquitto:
    broker: Broker

    def kill(self) -> None:
        self.broker.kill()

    def start(self) -> None:
        self.broker.restart()


@pytest.mark.broker
@pytest.mark.parametrize(("changes", "most"), [(1, 500.0), (100, 5000.0)])
def test_a_killed_broker_loses_no_more_than_it_had_not_saved(tmp_path: Path, changes: int, most: float) -> None:
    rate = min(RATE, most)  # what its disk can follow
    with (
        Broker(tmp_path / "broker", autosave_changes=changes) as broker,
        site(tmp_path, broker=broker.url, port=broker.port, rate=rate) as running,
    ):
        kills = strike(Mosquitto(broker), running, "mosquitto")
        most_lost = kills * int(changes + rate * SAVING_SECONDS)
        running.settle(faults=kills, most_again=MOST_IN_FLIGHT + int(rate * SAVING_SECONDS), most_lost=most_lost)


@dataclass(frozen=True, slots=True)
class ApiServer:
    cluster: Cluster

    def kill(self) -> None:
        self.cluster.kill_apiserver()

    def start(self) -> None:
        self.cluster.restart_apiserver()


@pytest.mark.control_plane
def test_a_killed_api_server_disturbs_no_reading(tmp_path: Path, start_cluster: Callable[..., Cluster]) -> None:
    own = start_cluster(controllers=False)

    def with_route(url: str) -> Path:
        own.apply([dataroute(url)])
        sources = [source(topic, flavor=f"f-{number}").dump() for number, topic in enumerate(TOPICS)]
        path = "/apis/edge.fluidos.eu/v1alpha1/namespaces/default/dataroutes/flow/status"
        body = {"status": {"sources": sources}}
        own.api.request("PATCH", path, body=body, content_type="application/merge-patch+json")
        return own.service_account_kubeconfig("fluidos", "relay")

    with site(tmp_path, kubeconfig=with_route) as running:
        strike(ApiServer(own), running, "kube-apiserver")
        running.settle(faults=0)


def dataroute(url: str) -> dict[str, object]:
    return {
        "apiVersion": "edge.fluidos.eu/v1alpha1",
        "kind": "DataRoute",
        "metadata": {"name": "flow", "namespace": "default"},
        "spec": {"source": {"flavors": ["f"]}, "targets": [{"name": "target", "url": url}]},
    }
