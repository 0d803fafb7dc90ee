"""One Kubernetes control plane: an API server, a controller manager, their certificates and the administrator's calls.

There are no kubelets and no scheduler: Nodes are objects that a test or the demo makes and changes.
"""

import datetime as dt
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from scripts.testbed import kubeconfig
from scripts.testbed.api import Api, Document, load
from scripts.testbed.binaries import Binaries
from scripts.testbed.certificates import Authority, Issued, key_pem, new_key
from scripts.testbed.processes import Child, ChildFailedError, free_port, stop_all

READY_LIMIT_SECONDS: Final = 60.0
START_ATTEMPTS: Final = 3
TOKEN_LIFETIME_SECONDS: Final = 24 * 3600
# Relative to the folder that every process runs in: a socket's path may not exceed 107 bytes, a folder's may.
ETCD_SOCKET: Final = "unix://etcd.sock"

# Without kubelets nobody renews a Node's Lease: the first two would call every Node unreachable, taint it and evict.
# Tests and the demo set Node conditions themselves. Node IPAM would need a CIDR that nothing here uses.
DISABLED_CONTROLLERS: Final = ("node-lifecycle-controller", "taint-eviction-controller", "node-ipam-controller")
# It taints a new Node as not ready and leaves it to the node lifecycle controller to take the taint off again.
DISABLED_ADMISSION: Final = "TaintNodesByCondition"

# With Go's default a third of a custom resource's create is spent on collecting garbage: memory is cheaper here.
APISERVER_GC: Final = {"GOGC": "400", "GOMEMLIMIT": "1GiB"}

AUDIT_POLICY: Final = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
"""


class Cluster:
    """One control plane. Made by `ControlPlanes.start_clusters` alone."""

    def __init__(
        self,
        *,
        name: str,
        number: int,
        directory: Path,
        etcd_directory: Path,
        binaries: Binaries,
        controllers: bool,
        audit: bool,
    ) -> None:
        self.name = name
        self.context = f"fluidos-{name}"
        self.kubeconfig = directory / "kubeconfig"
        self.audit_log = directory / "audit.log" if audit else None
        self._directory = directory
        self._etcd_directory = etcd_directory
        self._binaries = binaries
        self._service_range = f"10.96.{number}.0/24"
        self._controllers_wanted = controllers
        now = dt.datetime.now(dt.UTC)
        self._authority = Authority.new(self.context, now=now)
        directory.mkdir(mode=0o700)
        (directory / "ca.crt").write_bytes(self._authority.pem)
        (directory / "service-accounts.key").write_bytes(key_pem(new_key()))
        (directory / "audit-policy.yaml").write_text(AUDIT_POLICY)
        # 10.96.x.1 is the address that the `kubernetes` Service gets.
        hosts = ["127.0.0.1", "localhost", "kubernetes.default.svc", f"10.96.{number}.1"]
        self._authority.server("kube-apiserver", hosts=hosts, now=now).write(directory, "apiserver")
        self._admin = self._authority.client("admin", group="system:masters", now=now)
        self._admin_files = self._admin.write(directory, "admin")
        self._manager = self._authority.client("system:kube-controller-manager", now=now)
        self._apiserver: Child | None = None
        self._controller_manager: Child | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where the API server listens."""
        return f"https://127.0.0.1:{self._port}"

    @property
    def ca(self) -> bytes:
        """The PEM certificate that vouches for the API server."""
        return self._authority.pem

    @property
    def api(self) -> Api:
        """Requests as the administrator."""
        return Api(port=self._port, ca=self._directory / "ca.crt", certificate=self._admin_files)

    @property
    def entry(self) -> kubeconfig.Entry:
        """The administrator's context."""
        return self._entry(self._admin)

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of what runs, by program."""
        return {child.name.removeprefix(f"{self.name}-"): child.pid for child in self.children}

    @property
    def children(self) -> list[Child]:
        """What runs: clients first, so that they can be stopped in this order."""
        return [child for child in (self._controller_manager, self._apiserver) if child is not None]

    def apply(self, what: Path | Iterable[Document]) -> None:
        """Applies objects, or those of a YAML file or a folder of them; CRDs are established when this returns.

        Raises:
            ApiError: The server refuses one.
            ValueError: A file holds something that is no Kubernetes object.
        """
        self.api.apply(load(what) if isinstance(what, Path) else what)

    def add_node(self, name: str, labels: Mapping[str, str] | None = None, *, ready: bool = True) -> None:
        """Makes a Node as a kubelet would register it, and says whether it is ready."""
        host_name = {"kubernetes.io/hostname": name}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": host_name | dict(labels or {})},
        }
        self.api.apply([node])
        self.set_node_ready(name, ready=ready)

    def set_node_ready(self, name: str, *, ready: bool) -> None:
        """Sets the condition that a kubelet (or, in its absence, the node lifecycle controller) would set.

        Raises:
            ApiError: There is no such Node.
        """
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {
            "type": "Ready",
            "status": "True" if ready else "Unknown",
            "reason": "KubeletReady" if ready else "NodeStatusUnknown",
            "message": "set by the testbed",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        self.api.request(
            "PATCH",
            f"/api/v1/nodes/{name}/status",
            body={"status": {"conditions": [condition]}},
            content_type="application/strategic-merge-patch+json",
        )

    def service_account_kubeconfig(self, namespace: str, name: str, *, node: str | None = None) -> Path:
        """Asks for a token of an existing ServiceAccount, for 24 hours, and writes a kubeconfig with it.

        Args:
            namespace: Of the ServiceAccount, and of the context.
            name: Of the ServiceAccount.
            node: Binds the token to this Node, as a kubelet does for its pods: policies can then read
                `authentication.kubernetes.io/node-name` from the user's extra fields.

        Raises:
            ApiError: There is no such ServiceAccount or Node.
        """
        token = self.service_account_token(namespace, name, node=node)
        path = self._directory / "-".join(["kubeconfig", namespace, name, *([node] if node else [])])
        entry = self._entry(kubeconfig.Token(token), namespace=namespace)
        kubeconfig.write(path, [entry])
        return path

    def service_account_token(
        self, namespace: str, name: str, *, node: str | None = None, audience: str | None = None
    ) -> str:
        """Asks for a token of an existing ServiceAccount, for 24 hours.

        Args:
            namespace: Of the ServiceAccount.
            name: Of the ServiceAccount.
            node: Binds the token to this Node, as a kubelet does for its pods.
            audience: Whom it is for, as a projected token in a pod says; the API server by default.

        Raises:
            ApiError: There is no such ServiceAccount or Node.
        """
        spec: Document = {"expirationSeconds": TOKEN_LIFETIME_SECONDS}
        if audience is not None:
            spec["audiences"] = [audience]
        if node is not None:
            uid = self.api.request("GET", f"/api/v1/nodes/{node}")["metadata"]["uid"]
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}
        answer = self.api.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
            body={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
        )
        return str(answer["status"]["token"])

    def launch(self) -> None:
        """Starts the programs without waiting for them."""
        self._port = free_port()
        self._launch_apiserver()
        kubeconfig.write(self.kubeconfig, [self.entry])
        if self._controllers_wanted:
            # It asks again until the API server answers, so both come up side by side.
            self._launch_controller_manager()

    def await_ready(self) -> None:
        """Waits for what `launch` started; a port that someone else took meanwhile is changed for another.

        Raises:
            ChildFailedError: A program ended or is not ready in time.
        """
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                self._await_apiserver()
                break
            except ChildFailedError as error:
                if attempt == START_ATTEMPTS or "address already in use" not in str(error):
                    raise
                stop_all(self.children)
                self.launch()
        self._await_controller_manager()

    def kill_apiserver(self) -> None:
        """SIGKILL to the API server. Nothing answers until `restart_apiserver`."""
        if self._apiserver is not None:
            self._apiserver.kill()

    def restart_apiserver(self) -> None:
        """Stops the API server if it still runs, starts it with the same port, keys and objects, waits until ready.

        Raises:
            ChildFailedError: It does not come up again.
        """
        if self._apiserver is not None:
            # It would wait up to a minute for open watches to end, which those of the managers never do.
            self._apiserver.stop(timeout=1)
        self._launch_apiserver()
        self._await_apiserver()

    def kill(self) -> None:
        """Ends the programs at once."""
        for child in self.children:
            child.kill()

    def stop(self) -> None:
        """Ends the programs. The objects stay in etcd until the `ControlPlanes` end."""
        stop_all(self.children)
        self._apiserver = self._controller_manager = None

    def _await_apiserver(self) -> None:
        if self._apiserver is not None:
            self._apiserver.wait_until(self.api.ready, what="/readyz", limit=READY_LIMIT_SECONDS)

    def _await_controller_manager(self) -> None:
        if self._controller_manager is None:
            return
        if self._controller_manager.exit_code is not None:
            # It gives the API server ten seconds to serve its account; on a busy machine that takes longer.
            self._launch_controller_manager()
        # It serves no port of its own; the account in a namespace is the first thing that others need of it.
        api = self.api
        self._controller_manager.wait_until(
            lambda: api.exists("/api/v1/namespaces/default/serviceaccounts/default"),
            what="ServiceAccount default",
            limit=READY_LIMIT_SECONDS,
        )

    def _launch_apiserver(self) -> None:
        files = self._directory
        command: list[str | Path] = [
            self._binaries.kube_apiserver,
            f"--etcd-servers={ETCD_SOCKET}",
            f"--etcd-prefix=/{self.name}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--tls-cert-file={files / 'apiserver.crt'}",
            f"--tls-private-key-file={files / 'apiserver.key'}",
            f"--client-ca-file={files / 'ca.crt'}",
            "--authorization-mode=Node,RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={files / 'service-accounts.key'}",
            f"--service-account-signing-key-file={files / 'service-accounts.key'}",
            f"--service-cluster-ip-range={self._service_range}",
            # The address of the `kubernetes` Service would be 127.0.0.1, which Endpoints may not hold.
            "--endpoint-reconciler-type=none",
            f"--disable-admission-plugins={DISABLED_ADMISSION}",
            "--profiling=false",
        ]
        if self.audit_log is not None:
            command += [
                f"--audit-policy-file={files / 'audit-policy.yaml'}",
                f"--audit-log-path={self.audit_log}",
            ]
        self._apiserver = Child(
            name=f"{self.name}-kube-apiserver",
            command=command,
            directory=self._etcd_directory,
            logs=self._directory,
            environment={**APISERVER_GC, **os.environ},
        )

    def _launch_controller_manager(self) -> None:
        own_kubeconfig = self._directory / "kubeconfig-controller-manager"
        kubeconfig.write(own_kubeconfig, [self._entry(self._manager)])
        self._controller_manager = Child(
            name=f"{self.name}-kube-controller-manager",
            command=[
                self._binaries.kube_controller_manager,
                f"--kubeconfig={own_kubeconfig}",
                "--use-service-account-credentials",
                f"--service-account-private-key-file={self._directory / 'service-accounts.key'}",
                f"--root-ca-file={self._directory / 'ca.crt'}",
                f"--controllers={','.join(['*', *(f'-{each}' for each in DISABLED_CONTROLLERS)])}",
                "--leader-elect=false",
                "--kube-api-qps=500",  # its many informers start at once; the default of 20 costs seconds
                "--kube-api-burst=500",
                "--secure-port=0",
                "--profiling=false",
            ],
            directory=self._directory,
        )

    def _entry(self, credential: Issued | kubeconfig.Token, *, namespace: str = "default") -> kubeconfig.Entry:
        return kubeconfig.Entry(
            context=self.context, url=self.url, ca=self.ca, credential=credential, namespace=namespace
        )
