"""`python -m scripts.testbed.kubelet`: plays the kubelet of some Nodes for the pods of flash runners, and no others.

A runner is forked from a process that has imported it already: starting Python for each of hundreds of devices would
take longer than flashing them. What a runner is given is what its pod says: arguments, environment, folders, a signal
to stop and time for it; then the pod's status says how it ended, and the Job controller does the rest.
"""

import argparse
import asyncio
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from ctypes import CDLL
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

import structlog

from crds.kube.client import MERGE_PATCH, Conflict, Kind, Kube, NotFound, Object
from crds.kube.process import configure_logging, run_process, until_stopped
from crds.kube.queue import WorkQueue
from crds.kube.watch import Change, Gone, Key, Put, follow
from scripts.testbed.cluster import Cluster
from scripts.testbed.processes import PR_SET_PDEATHSIG, Child

log = structlog.get_logger(__name__)

PODS: Final = Kind("v1", "pods")
RUNNER: Final = "flash_controller.runner"
COMMAND: Final = ["python", "-m", RUNNER]
LABEL: Final = "app.kubernetes.io/component=flash-runner"
REPOSITORY: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Node:
    """One Node: where its pods find the API server with an account of this Node, and the address that it has."""

    kubeconfig: str
    address: str


class Kubelet:
    """Runs pods.

    Args:
        kube: the API server, as the administrator.
        nodes: by name.
        logs: folder for the output of pods, `<pod>.log` each.
        environment: what pods get beside what they say.
        runner: module that runs instead of the runner, for tests.
    """

    def __init__(
        self,
        kube: Kube,
        *,
        nodes: Mapping[str, Node],
        logs: Path,
        environment: Mapping[str, str],
        runner: str = RUNNER,
    ) -> None:
        self._kube = kube
        self._nodes = nodes
        self._logs = logs
        self._environment = environment
        self._runner = runner
        self._forks = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload([__name__, f"{runner}.__main__"])
        self._pods: dict[Key, Object] = {}
        self._running: dict[str, ForkServerProcess] = {}  # by the pod's UID
        self.queue: WorkQueue[Key] = WorkQueue("pods", self.reconcile)

    async def run(self) -> None:
        """Play until cancelled."""
        await asyncio.to_thread(self._import)
        async with asyncio.TaskGroup() as group:
            query = {"labelSelector": LABEL}
            group.create_task(follow(self._kube, PODS, changed=self.seen, synced=asyncio.Event(), query=query))
            group.create_task(self.queue.run())

    def _import(self) -> None:
        """Wait for the imports of which all later processes are forked."""
        first = self._forks.Process(target=int)
        first.start()
        first.join()

    def seen(self, change: Change) -> None:
        """A pod appeared, changed or went."""
        match change:
            case Put(key, obj):
                if obj["spec"].get("nodeName") in self._nodes and obj["spec"]["containers"][0]["command"] == COMMAND:
                    self._pods[key] = obj
                    self.queue.add(key)
            case Gone(key, uid):
                self._pods.pop(key, None)
                if (process := self._running.pop(uid or "", None)) is not None:
                    process.kill()

    async def reconcile(self, key: Key) -> float | None:
        """Start what waits, stop what is deleted, and say what ended; the seconds until the next look."""
        pod = self._pods.get(key)
        if pod is None:
            return None
        process = self._running.get(pod["metadata"]["uid"])
        ended = process is not None and process.exitcode is not None
        try:
            if pod["metadata"].get("deletionTimestamp"):
                return await self._stop(key, pod, process)
            phase = pod.get("status", {}).get("phase", "Pending")
            if phase == "Pending" and process is None:
                await self._start(key, pod)
            elif phase == "Running" and (process is None or ended):
                await self._say_ended(key, pod, process)
        except (NotFound, Conflict):
            return None
        return None

    async def _start(self, key: Key, pod: Object) -> None:
        node = self._nodes[pod["spec"]["nodeName"]]
        container = pod["spec"]["containers"][0]
        fields = {"status.hostIP": node.address, "spec.nodeName": pod["spec"]["nodeName"]}
        environment = {"FLUIDOS_EDGE_KUBECONFIG": node.kubeconfig, **self._environment}
        for each in container.get("env", ()):
            source = each.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            environment[each["name"]] = fields[source] if source else each.get("value", "")
        folders = [each["hostPath"]["path"] for each in pod["spec"].get("volumes", ()) if "hostPath" in each]
        words = expand(container["args"], environment)
        process = self._forks.Process(
            target=run_runner,
            args=(self._runner, words, environment, folders, self._logs / f"{key[1]}.log"),
            daemon=True,
        )
        self._running[pod["metadata"]["uid"]] = process
        process.start()
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(process.sentinel)
            process.join()
            self.queue.add(key)

        loop.add_reader(process.sentinel, ended)
        await self._patch(key, pod, phase="Running", state={"running": {"startedAt": now()}}, hostIP=node.address)

    async def _stop(self, key: Key, pod: Object, process: ForkServerProcess | None) -> float | None:
        """SIGTERM, the pod's own time, SIGKILL; then the pod may go."""
        if process is not None and process.exitcode is None:
            due = datetime.fromisoformat(pod["metadata"]["deletionTimestamp"])  # it includes the time of grace
            left = (due - datetime.now(UTC)).total_seconds()
            if left <= 0:
                process.kill()
                return None
            process.terminate()
            return left
        if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            await self._say_ended(key, pod, process)
            return None  # the watch brings it back
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        await self._kube.request("DELETE", PODS.path(namespace=key[0], name=key[1]), body=body)
        return None

    async def _say_ended(self, key: Key, pod: Object, process: ForkServerProcess | None) -> None:
        ended = process.exitcode or 0 if process is not None else 255  # what an earlier life of ours had started
        code = ended if ended >= 0 else 128 - ended
        reason = "Completed" if code == 0 else "Error"
        state = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": now()}}
        await self._patch(key, pod, phase="Failed" if code else "Succeeded", state=state)

    async def _patch(self, key: Key, pod: Object, *, phase: str, state: Object, **more: str) -> None:
        container = pod["spec"]["containers"][0]
        running = "running" in state
        status = {
            "phase": phase,
            "startTime": pod.get("status", {}).get("startTime") or now(),
            "conditions": [{"type": "Ready", "status": str(running), "lastTransitionTime": now()}],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": running,
                    "restartCount": 0,
                    "state": state,
                }
            ],
            **more,
        }
        body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}
        path = PODS.path(namespace=key[0], name=key[1], subresource="status")
        self._pods[key] = await self._kube.request("PATCH", path, body=body, content_type=MERGE_PATCH)
        self.queue.add(key)  # it may have ended meanwhile


def expand(words: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """`$(NAME)` as Kubernetes expands it in arguments."""
    expanded = []
    for word in words:
        for name, value in environment.items():
            word = word.replace(f"$({name})", value)  # noqa: PLW2901 - one after the other
        expanded.append(word)
    return expanded


def now() -> str:
    """As metav1.Time."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def run_runner(
    module: str, arguments: list[str], environment: Mapping[str, str], folders: list[str], output: Path
) -> None:
    """In the forked process: be `python -m <module>`."""
    CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for folder in folders:
        Path(folder).mkdir(parents=True, exist_ok=True)
    with output.open("ab") as log_file:
        os.dup2(log_file.fileno(), 1)
        os.dup2(log_file.fileno(), 2)
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    sys.modules.pop(f"{module}.__main__")  # it was imported for what it imports
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def start_kubelet(
    cluster: Cluster,
    *,
    nodes: Mapping[str, str],
    directory: Path,
    environment: Mapping[str, str] | None = None,
    runner: str = RUNNER,
) -> Child:
    """A kubelet of its own process.

    Args:
        cluster: whose Nodes these are.
        nodes: addresses by name.
        directory: of its log and those of pods.
        environment: what pods get beside what they say.
        runner: module that runs instead of the runner, for tests.
    """
    command: list[str | Path] = [sys.executable, "-m", "scripts.testbed.kubelet"]
    command += ["--kubeconfig", cluster.kubeconfig, "--logs", directory, "--runner", runner]
    for name, address in nodes.items():
        kubeconfig = cluster.service_account_kubeconfig("fluidos", "flash-runner", node=name)
        command += ["--node", name, str(kubeconfig), address]
    for name, value in (environment or {}).items():
        command += ["--environment", f"{name}={value}"]
    return Child(name="kubelet", command=command, directory=REPOSITORY, logs=directory)


def main() -> int:
    """Until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--node", nargs=3, action="append", required=True, metavar=("NAME", "KUBECONFIG", "ADDRESS"))
    parser.add_argument("--environment", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--runner", default=RUNNER)
    flags = parser.parse_args()
    configure_logging("info")

    async def work(stop: asyncio.Event) -> None:
        async with await Kube.connect(kubeconfig=flags.kubeconfig) as kube:
            kubelet = Kubelet(
                kube,
                nodes={name: Node(kubeconfig, address) for name, kubeconfig, address in flags.node},
                logs=flags.logs,
                environment=dict(each.split("=", 1) for each in flags.environment),
                runner=flags.runner,
            )
            log.info("kubelet started", nodes=[name for name, _, _ in flags.node])
            await until_stopped(stop, kubelet.run())

    return run_process(work)


if __name__ == "__main__":
    sys.exit(main())
