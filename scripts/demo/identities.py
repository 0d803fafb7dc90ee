"""Who the processes of one site are: its issuer, the helper that trades their tokens, and what it knows of others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml

from crds.models.appraisal import CONFIG_MAP as APPRAISAL
from crds.models.appraisal import KEY, AppraisalPolicy
from crds.models.federation import CONFIG_MAP as FEDERATION
from crds.models.fluidos import FLUIDOS_NAMESPACE
from scripts.demo.crew import Crew
from scripts.simulator.factory import policy_yaml
from scripts.testbed.cluster import Cluster
from scripts.testbed.processes import free_port
from spire.issuer.workloads import AUDIENCE

Flags = tuple[str | Path, ...]


class Identities:
    """Of one cluster, which is one trust domain.

    Args:
        cluster: whose ServiceAccounts are given identities.
        directory: gets the issuer's state, tokens and sockets.
        domain: the trust domain is the cluster's name in it.
    """

    def __init__(self, cluster: Cluster, directory: Path, *, domain: str) -> None:
        self.trust_domain = f"{cluster.name}.{domain}"
        self.bundle = directory / "bundle.pem"
        self.issuer = f"https://127.0.0.1:{free_port()}"
        self._cluster = cluster
        self._directory = directory
        self._workloads: list[str] = []

    def prepare(self) -> None:
        """Make the folder."""
        self._directory.mkdir(mode=0o700, parents=True)

    def socket(self, account: str, *, node: str | None = None) -> Flags:
        """The flag by which a process of ours has the identity of its account; before `start`."""
        # An address of a socket has 107 bytes, and the temporary folder has used most of them.
        path = self._directory / f"{len(self._workloads)}.sock"
        self._workloads.append(f"{self._token(account, node=node)},socket={path}")
        return "--identity-socket", path

    def files(self, name: str, account: str, *, namespace: str = FLUIDOS_NAMESPACE, node: str | None = None) -> Path:
        """The folder in which a program finds the identity of an account; before `start`.

        A program that leaves its process id there in `mosquitto.pid` is told of renewals.
        """
        folder = self._directory / name
        token = self._token(account, namespace=namespace, node=node, name=name)
        self._workloads.append(f"{token},files={folder},signal-pid-file={folder / 'mosquitto.pid'}")
        return folder

    def start(self, crew: Crew, *, keys: Literal["files", "secrets"] = "files") -> None:
        """Its two processes.

        Args:
            crew: runs them.
            keys: where the issuer keeps its keys.
        """
        name = self._cluster.name
        account = self._cluster.service_account_kubeconfig(FLUIDOS_NAMESPACE, "identity-issuer")
        crew.start_probed(
            f"{name}-identity-issuer",
            "spire.issuer",
            "--kubeconfig",
            account,
            "--trust-domain",
            self.trust_domain,
            "--listen",
            self.issuer.removeprefix("https://"),
            "--bundle-file",
            self.bundle,
            *(("--state-dir", self._directory / "issuer") if keys == "files" else ()),
        )
        flags = [flag for workload in self._workloads for flag in ("--workload", workload)]
        known = ("--issuer", self.issuer, "--trust-domain", self.trust_domain, "--bundle-file", self.bundle)
        crew.start_probed(f"{name}-helper", "spire.helper", *known, *flags)

    def federate(self, others: Iterable[Identities]) -> None:
        """Say where others' bundles are, and what they are now; others have to be ready."""
        peers = {
            other.trust_domain: yaml.safe_dump(
                {
                    "bundleEndpointURL": f"{other.issuer}/bundle",
                    "endpointSPIFFEID": f"spiffe://{other.trust_domain}/issuer",
                    "trustDomainBundle": other.bundle.read_text(),
                }
            )
            for other in others
        }
        self._configure(FEDERATION, peers)

    def accept(self, policy: AppraisalPolicy) -> None:
        """Say which devices are believed."""
        self._configure(APPRAISAL, {KEY: policy_yaml(policy)})

    def _configure(self, name: str, data: dict[str, str]) -> None:
        metadata: dict[str, Any] = {"name": name, "namespace": FLUIDOS_NAMESPACE}
        self._cluster.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}])

    def _token(
        self, account: str, *, namespace: str = FLUIDOS_NAMESPACE, node: str | None = None, name: str | None = None
    ) -> str:
        """The beginning of a helper's flag; the token is what a pod would have as a projected volume."""
        name = name or account
        file = self._directory / f"{name}.token"
        file.touch(mode=0o600)
        file.write_text(self._cluster.service_account_token(namespace, account, node=node, audience=AUDIENCE))
        return f"name={name},token-file={file}"
