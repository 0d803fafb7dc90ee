"""The processes of a provider that gives its devices other firmware: the manager, and who runs its Jobs on the node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from scripts.demo.crew import Crew
from scripts.testbed.processes import free_port

if TYPE_CHECKING:
    from scripts.demo.site import Provider

RUNNER: Final = "flash-runner"
ADDRESS: Final = "127.0.0.1"
"""Of the node."""


class Flashing:
    """Of one provider.

    Args:
        provider: whose devices they are.
        directory: of runners: their images, and their logs.
    """

    def __init__(self, provider: Provider, directory: Path) -> None:
        self._provider = provider
        self._directory = directory
        self._port = free_port()

    @property
    def links(self) -> tuple[str, ...]:
        """The edge agent's flags by which runners reach devices."""
        return ("--links", f"{ADDRESS}:{self._port}")

    def prepare(self) -> None:
        """Let its processes have identities."""
        self._provider.identify("flash-controller")
        self._provider.identify(RUNNER, node=self._provider.node)

    def start(self, crew: Crew) -> None:
        """Start them."""
        provider = self._provider
        _, kubeconfig, *identity = provider.account(RUNNER, node=provider.node)
        name, socket = identity
        more = (f"{name}={socket}", f"--agent=https://$(HOST_IP):{self._port}", f"--cache={self._directory}")
        arguments = [f"--runner-argument={each}" for each in more]
        provider.start_manager(crew, "flash_controller", "--runner-folder", self._directory, *arguments)
        node = ("--node", provider.node, kubeconfig, ADDRESS)
        own = ("--kubeconfig", provider.cluster.kubeconfig, "--logs", self._directory)
        crew.start(f"{provider.name}-kubelet", "scripts.testbed.kubelet", *own, *node)
