"""Control planes without containers: one etcd, and as many clusters on it as are asked for.

Each cluster lives under its own prefix of the etcd, which listens on a socket inside a folder that only we may enter.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from scripts.testbed import kubeconfig
from scripts.testbed.binaries import Binaries
from scripts.testbed.cluster import ETCD_SOCKET, READY_LIMIT_SECONDS, Cluster
from scripts.testbed.processes import Child

MAX_CLUSTERS: Final = 200
CLUSTER_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")


class ControlPlanes:
    """One etcd and the clusters on it, all gone at the end of the `with` block.

    Args:
        directory: Where all state goes: must be absent or empty, and is removed at the end.
        binaries: The programs; found, or built, by default.
        keep: Leaves the folder, with its logs, where it is at the end.

    Raises:
        ChildFailedError: etcd does not come up.
        BinaryError: A program is missing and cannot be built.
        ValueError: `directory` is not empty.
    """

    def __init__(self, directory: Path, *, binaries: Binaries | None = None, keep: bool = False) -> None:
        if directory.exists() and any(directory.iterdir()):
            raise ValueError(f"{directory} is not empty: the testbed removes its folder at the end")
        self._binaries = binaries or Binaries.find()
        self._keep = keep
        self.directory = directory
        self.kubeconfig = directory / "kubeconfig"
        self.clusters: dict[str, Cluster] = {}
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)  # who may enter may speak to etcd, past all RBAC
        try:
            self._etcd = self._start_etcd()
        except BaseException:
            self._remove(directory)
            raise

    def start_cluster(self, name: str, *, controllers: bool = True, audit: bool = False) -> Cluster:
        """Starts one cluster; see `start_clusters`."""
        return self.start_clusters([name], controllers=controllers, audit=audit)[0]

    def start_clusters(self, names: Sequence[str], *, controllers: bool = True, audit: bool = False) -> list[Cluster]:
        """Starts clusters side by side and returns when all are ready; adds their contexts to `kubeconfig`.

        Args:
            names: DNS labels of at most 40 characters; the context of `provider-1` is `fluidos-provider-1`.
            controllers: Whether a kube-controller-manager runs too.
            audit: Whether every request is logged, as JSON lines, to `Cluster.audit_log`.

        Raises:
            ChildFailedError: One does not come up; none of them is left then.
            ValueError: A name is taken or no DNS label.
        """
        for name in names:
            if name in self.clusters or names.count(name) > 1 or not CLUSTER_NAME.fullmatch(name):
                raise ValueError(f"cluster name {name!r}: must be new and a DNS label of at most 40 characters")
        if len(self.clusters) + len(names) > MAX_CLUSTERS:
            raise ValueError(f"at most {MAX_CLUSTERS} clusters, so that each has Service addresses of its own")
        clusters = [
            Cluster(
                name=name,
                number=number,
                directory=self.directory / name,
                etcd_directory=self.directory,
                binaries=self._binaries,
                controllers=controllers,
                audit=audit,
            )
            for number, name in enumerate(names, start=len(self.clusters))
        ]
        try:
            for cluster in clusters:
                cluster.launch()
            for cluster in clusters:
                cluster.await_ready()
        except BaseException:
            for cluster in clusters:
                cluster.kill()
                self._remove(self.directory / cluster.name)
            raise
        self.clusters |= {cluster.name: cluster for cluster in clusters}
        kubeconfig.write(self.kubeconfig, [cluster.entry for cluster in self.clusters.values()])
        return clusters

    def close(self) -> None:
        """Ends everything, without ceremony, and removes the folder. Safe to repeat."""
        for cluster in self.clusters.values():
            cluster.kill()
        self._etcd.kill()
        self._remove(self.directory)

    def _remove(self, folder: Path) -> None:
        if not self._keep:
            shutil.rmtree(folder, ignore_errors=True)

    def _start_etcd(self) -> Child:
        peer = "unix://etcd-peer.sock"  # a member must have a peer address, though nobody will call
        child = Child(
            name="etcd",
            command=[
                self._binaries.etcd,
                "--name=testbed",
                "--data-dir=etcd",
                f"--listen-client-urls={ETCD_SOCKET}",
                f"--advertise-client-urls={ETCD_SOCKET}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=testbed={peer}",
                "--unsafe-no-fsync",  # what it holds is thrown away at the end
                "--log-level=warn",
            ],
            directory=self.directory,
        )
        try:
            child.wait_until((self.directory / "etcd.sock").exists, what="etcd.sock", limit=READY_LIMIT_SECONDS)
        except BaseException:
            child.kill()
            raise
        return child

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
