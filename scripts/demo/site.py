"""One cluster of the demo and the processes that belong to it, each under its own account and identity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from crds.models.fluidos import FLUIDOS_NAMESPACE, IDENTITY_CONFIG_MAP
from scripts.demo.crew import Crew
from scripts.demo.factory import Boards
from scripts.demo.flashing import Flashing
from scripts.demo.identities import Flags, Identities
from scripts.demo.inventory import NAMESPACE, DeviceVersion, boards, device, device_model
from scripts.testbed.broker import Broker, BrokerTls
from scripts.testbed.cluster import Cluster
from scripts.testbed.manifests import install
from scripts.testbed.processes import free_port
from spire.domain.entitlement import ENDPOINT_LABEL

DOMAIN: Final = "fluidos.eu"
SENSOR_NODE: Final = {"node-role.fluidos.eu/sensors": "true"}
LOOPBACK: Final = "127.0.0.0/8"
ENDPOINT: Final = "endpoints"
"""The ServiceAccount of what receives readings."""


@dataclass(frozen=True, slots=True)
class Lan:
    """FLUIDOS' multicast on this machine alone, on a port of this demo's own."""

    port: int

    @property
    def flags(self) -> tuple[str, ...]:
        """Of the managers that take part."""
        address = ("--multicast-address", f"239.11.11.1:{self.port}", "--multicast-interface", "127.0.0.1")
        return "--auto-discovery", *address, "--multicast-ttl", "0"


class Site(ABC):
    """What a provider and a consumer have in common.

    Args:
        cluster: where it is.
        number: from 1 in each role.
        directory: of all sites; this one has a folder in it.
        insecure: without identities and TLS.
    """

    def __init__(self, cluster: Cluster, number: int, *, directory: Path, insecure: bool = False) -> None:
        self.cluster = cluster
        self.number = number
        self.directory = directory / cluster.name
        self.identities = None if insecure else Identities(cluster, self.directory / "id", domain=DOMAIN)
        self._flags: dict[str, Flags] = {}

    @abstractmethod
    def prepare(self) -> None:
        """Make everything that is there before a process is."""

    @property
    def name(self) -> str:
        """`provider-1`; also the nodeID."""
        return self.cluster.name

    def account(self, name: str, *, node: str | None = None) -> Flags:
        """The flags with the kubeconfig of a ServiceAccount of ours, and with its identity."""
        kubeconfig = self.cluster.service_account_kubeconfig(FLUIDOS_NAMESPACE, name, node=node)
        return ("--kubeconfig", kubeconfig, *(self._flags[name] if self.identities else ("--insecure",)))

    def identify(self, *accounts: str, node: str | None = None) -> None:
        """Let processes of these accounts have identities."""
        if self.identities is not None:
            self._flags |= {name: self.identities.socket(name, node=node) for name in accounts}

    def start_manager(self, crew: Crew, module: str, *flags: str | Path) -> None:
        """Start `edge_resource_manager`, `router_manager` or `flash_controller`.

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


class Consumer(Site):
    """A cluster that asks, and receives."""

    def __init__(self, cluster: Cluster, number: int, *, directory: Path, insecure: bool = False) -> None:
        super().__init__(cluster, number, directory=directory, insecure=insecure)
        self.sink_port = free_port()
        self._tls_port = free_port()
        self.sink_files: Path | None = None

    @property
    def sink(self) -> str:
        """Below this URL it receives."""
        return (
            f"http://127.0.0.1:{self.sink_port}" if self.identities is None else f"https://127.0.0.1:{self._tls_port}"
        )

    def prepare(self) -> None:
        """See Site. It sells nothing: nobody listens at its gateway's address."""
        install(self.cluster)
        self.introduce(address="127.0.0.1:1")
        if self.identities is not None:
            self.identities.prepare()
            label = {ENDPOINT_LABEL: "true"}
            metadata = {"name": ENDPOINT, "namespace": NAMESPACE, "labels": label}
            self.cluster.apply([{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}])
            self.identify("edge-resource-manager")
            self.sink_files = self.identities.files("sink", ENDPOINT, namespace=NAMESPACE)

    def start(self, crew: Crew, *, discover: Lan | None, flags: Sequence[str] = ()) -> None:
        """Its manager, and what receives readings; `flags` are the manager's."""
        secured: Flags = ()
        if self.sink_files:
            secured = ("--tls-dir", self.sink_files, "--tls-port", str(self._tls_port), "--verify-readings")
        crew.start(f"{self.name}-sink", "scripts.sink", "--port", str(self.sink_port), *secured)
        lan = (*discover.flags, "--no-announce") if discover else ()
        self.start_manager(crew, "edge_resource_manager", *lan, *flags)

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


class Provider(Site):
    """A cluster that has sensors: one labelled node with a broker, an edge agent and a relay.

    Args:
        cluster: where it is.
        number: from 1; odd ones have KubeEdge's newer Devices, and more of them.
        directory: of all sites.
        boards: the devices that can prove what they are; None without identities.
        flashes: whether it gives them other firmware.
    """

    def __init__(
        self, cluster: Cluster, number: int, *, directory: Path, boards: Boards | None = None, flashes: bool = False
    ) -> None:
        super().__init__(cluster, number, directory=directory, insecure=boards is None)
        self._flashing = Flashing(self, directory / cluster.name / "flashing") if flashes else None
        self.gateway = f"127.0.0.1:{free_port()}"
        self._boards = boards
        self._tls: BrokerTls | None = None
        self._mapper: Path | None = None
        self._broker: Broker | None = None

    @property
    def node(self) -> str:
        """The sensor node."""
        return f"{self.name}-edge"

    @property
    def version(self) -> DeviceVersion:
        """KubeEdge's two versions have no conversion: an installation has one of them."""
        return "v1beta1" if self.number % 2 else "v1alpha2"

    @property
    def broker(self) -> Broker:
        """The node's, which `open_broker` starts."""
        if self._broker is None:
            raise RuntimeError(f"the broker of {self.name} has not been started")
        return self._broker

    def prepare(self) -> None:
        """See Site."""
        install(self.cluster, kubeedge=self.version)
        self.introduce(address=self.gateway)
        self.cluster.add_node(self.node, SENSOR_NODE)
        if self.identities is not None:
            self.identities.prepare()
            self.identify("edge-resource-manager", "rear-gateway", "router-manager")
            self.identify("relay", "edge-agent", node=self.node)
            if self._flashing is not None:
                self._flashing.prepare()
            data, onboarding, self._mapper = (
                self.identities.files(name, account, node=self.node)
                for name, account in (("broker", "broker"), ("onboarding", "broker"), ("mapper", "mapper"))
            )
            self._tls = BrokerTls(data=data, onboarding=onboarding, node=self.node)

    def open_broker(self, stack: ExitStack) -> None:
        """Start the node's broker; with identities its files have to be there."""
        self._broker = stack.enter_context(Broker(self.directory / "broker", tls=self._tls))

    def start(self, crew: Crew, *, discover: Lan | None) -> None:
        """Its processes."""
        allow = ("--egress-allow", LOOPBACK)
        self.start_manager(crew, "edge_resource_manager", *(discover.flags if discover else ()))
        gateway = self.account("rear-gateway")
        crew.start_probed(
            f"{self.name}-rear-gateway",
            "edge_resource_manager.gateway",
            *gateway,
            "--listen",
            self.gateway,
            *allow,
        )
        self.start_manager(crew, "router_manager", *allow)
        node = ("--node", self.node, "--broker", self.broker.url)
        state = ("--state-dir", self.directory / "relay", "--listen", f"127.0.0.1:{free_port()}")
        relay = self.account("relay", node=self.node)
        crew.start_probed(f"{self.name}-relay", "router_manager.relay", *relay, *node, *state, *allow)
        if self.identities is not None:
            known = ("--onboarding", self.broker.agent_onboarding_url, "--issuer", self.identities.issuer)
            agent = self.account("edge-agent", node=self.node)
            links = self._flashing.links if self._flashing else ()
            crew.start_probed(f"{self.name}-edge-agent", "edge_resource_manager.agent", *agent, *node, *known, *links)
        if self._flashing is not None:
            self._flashing.start(crew)

    def plug_in(self) -> None:
        """Apply the KubeEdge Devices of its boards."""
        documents = [device_model(self.version)]
        for index, board in enumerate(boards(self.number)):
            number = self.number * 100 + index
            ueid = self._boards.ueid(board) if self._boards else None
            documents.append(device(board, number=number, node=self.node, version=self.version, ueid=ueid))
        self.cluster.apply(documents)

    def connection(self, device: str) -> dict[str, Any]:
        """What the simulator needs to know of how a device publishes; one that is none of our boards proves nothing."""
        found: dict[str, Any] = {"broker": self.broker.url}
        if self._boards is None or self.identities is None:
            return found
        board = next((each for each in boards(self.number) if each.name == device and each.mcu), None)
        if board is None:
            return {**found, "svid": str(self._mapper)}
        identity = self._boards.identity(board, attest=self.broker.onboarding_url, bundle=self.identities.bundle)
        return {**found, "identity": identity}

    def hardware(self, name: str) -> dict[str, Any]:
        """What the simulator needs to know of a board that belongs here, whatever it runs."""
        if self._boards is None or self.identities is None:
            raise RuntimeError(f"{self.name} has no identities")
        return self._boards.hardware(name, attest=self.broker.onboarding_url, bundle=self.identities.bundle)
