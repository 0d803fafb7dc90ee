"""Flags of the manager of firmware."""

from __future__ import annotations

from pydantic import Field

from crds.kube.manager import ManagerSettings
from flash_controller.domain.jobs import RunnerForm
from spire.workload import IdentitySettings


class FlashSettings(IdentitySettings, ManagerSettings):
    """`python -m flash_controller`."""

    runner_image: str = Field(default="fluidos-edge:latest", description="container image of the flash runners")
    runner_folder: str = Field(
        default="/var/lib/fluidos-edge/flash-runner",
        pattern=r"^/.+",
        description="folder of every node that runners keep images in, and find their identity's socket",
    )
    runner_argument: tuple[str, ...] = Field(
        default=("--agent=https://$(HOST_IP):3005",),
        description="a further flag of every runner, as --flag=value; may be given several times",
    )
    adopt: bool = Field(
        default=False,
        description="carry out FlashJobs of Nubificus and firmwareJobSpecs of Akri; only where nobody else does",
    )

    @property
    def runner(self) -> RunnerForm:
        """What all runners have in common."""
        return RunnerForm(
            namespace=self.namespace,
            image=self.runner_image,
            folder=self.runner_folder,
            arguments=self.runner_argument,
        )
