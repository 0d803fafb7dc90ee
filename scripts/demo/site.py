"""One cluster of the demo and the processes that belong to it, each under its own account."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from crds.models.fluidos import FLUIDOS_NAMESPACE, IDENTITY_CONFIG_MAP
from scripts.demo.crew import Crew
from scripts.demo.inventory import DeviceVersion, boards, device, device_model
from scripts.testbed.broker import Broker
from scripts.testbed.cluster import Cluster
from scripts.testbed.manifests import install
from scripts.testbed.processes import free_port

DOMAIN: Final = "fluidos.eu"
SENSOR_NODE: Final = {"node-role.fluidos.eu/sensors": "true"}
LOOPBACK: Final = "127.0.0.0/8"


@dataclass(frozen=True, slots=True)
class Lan:
    """FLUIDOS' multicast on this machine alone, on a port of this demo's own."""

    port: int

    @property
    def flags(self) -> tuple[str, ...]:
        """Of the managers that take part."""
        address = ("--multicast-address", f"239.11.11.1:{self.port}", "--multicast-interface", "127.0.0.1")
        return "--auto-discovery", *address, "--multicast-ttl", "0"


@dataclass(frozen=True, slots=True)
class Site(ABC):
    """What a provider and a consumer have in common; `number` is from 1 in each role."""

    cluster: Cluster
    number: int

    @abstractmethod
    def prepare(self) -> None:
        """Make everything that is there before a process is."""

    @property
    def name(self) -> str:
        """`provider-1`; also the nodeID."""
        return self.cluster.name

    def account(self, name: str, *, node: str | None = None) -> tuple[str, Path]:
        """The flag with the kubeconfig of a ServiceAccount of ours."""
        return "--kubeconfig", self.cluster.service_account_kubeconfig(FLUIDOS_NAMESPACE, name, node=node)

    def start_manager(self, crew: Crew, module: str, *flags: str) -> None:
        """Start `edge_resource_manager` or `router_manager`.

        It keeps its name, so that it takes its Lease over from its own earlier life at once.
        """
        account = module.replace("_", "-")
        name = f"{self.name}-{account}"
        crew.start_probed(name, module, *self.account(account), "--identity", name, *flags)

    def introduce(self, *, address: str) -> None:
        """Say who this FLUIDOS node is; `address` is host:port of its gateway."""
        host, port = address.split(":")
        identity = {"domain": DOMAIN, "nodeID": self.name, "ip": host, "port": port}
        metadata = {"name": IDENTITY_CONFIG_MAP, "namespace": FLUIDOS_NAMESPACE}
        self.cluster.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": identity}])

    def objects(self, path: str) -> list[dict[str, Any]]:
        """The items of a list."""
        items: list[dict[str, Any]] = self.cluster.api.request("GET", path)["items"]
        return items


@dataclass(frozen=True, slots=True)
class Consumer(Site):
    """A cluster that asks."""

    def prepare(self) -> None:
        """See Site. It sells nothing: nobody listens at its gateway's address."""
        install(self.cluster)
        self.introduce(address="127.0.0.1:1")

    def start(self, crew: Crew, *, discover: Lan | None) -> None:
        """Its manager."""
        lan = (*discover.flags, "--no-announce") if discover else ()
        self.start_manager(crew, "edge_resource_manager", "--insecure", *lan)

    def know(self, providers: Sequence[Provider]) -> None:
        """Tell it by hand where the providers are."""
        self.cluster.apply(
            {
                "apiVersion": "network.fluidos.eu/v1alpha1",
                "kind": "KnownCluster",
                "metadata": {"name": f"knowncluster-{provider.name}", "namespace": FLUIDOS_NAMESPACE},
                "spec": {"address": provider.gateway},
            }
            for provider in providers
        )


@dataclass(frozen=True, slots=True)
class Provider(Site):
    """A cluster that has sensors: one labelled node with a broker and a relay."""

    gateway: str
    broker: Broker

    @property
    def node(self) -> str:
        """The sensor node."""
        return f"{self.name}-edge"

    @property
    def version(self) -> DeviceVersion:
        """KubeEdge's two versions have no conversion: an installation has one of them."""
        return "v1beta1" if self.number % 2 else "v1alpha2"

    @classmethod
    def open(cls, cluster: Cluster, number: int, *, directory: Path, stack: ExitStack) -> Provider:
        """Start its broker; the rest is `start`'s."""
        broker = stack.enter_context(Broker(directory / cluster.name / "broker"))
        return cls(cluster, number, f"127.0.0.1:{free_port()}", broker)

    def prepare(self) -> None:
        """See Site."""
        install(self.cluster, kubeedge=self.version)
        self.introduce(address=self.gateway)
        self.cluster.add_node(self.node, SENSOR_NODE)

    def start(self, crew: Crew, *, directory: Path, discover: Lan | None) -> None:
        """Its four processes."""
        allow = ("--egress-allow", LOOPBACK)
        self.start_manager(crew, "edge_resource_manager", "--insecure", *(discover.flags if discover else ()))
        crew.start_probed(
            f"{self.name}-rear-gateway",
            "edge_resource_manager.gateway",
            *self.account("rear-gateway"),
            "--listen",
            self.gateway,
            *allow,
        )
        self.start_manager(crew, "router_manager", "--insecure", *allow)
        crew.start_probed(
            f"{self.name}-relay",
            "router_manager.relay",
            "--insecure",
            *self.account("relay", node=self.node),
            "--node",
            self.node,
            "--broker",
            self.broker.url,
            "--state-dir",
            directory / self.name / "relay",
            *allow,
        )

    def plug_in(self) -> None:
        """Apply the KubeEdge Devices of its boards."""
        documents = [device_model(self.version)]
        for index, board in enumerate(boards(self.number)):
            number = self.number * 100 + index
            documents.append(device(board, number=number, node=self.node, version=self.version))
        self.cluster.apply(documents)
