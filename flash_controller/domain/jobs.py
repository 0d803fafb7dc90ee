"""The Job of one attempt: how it is written, and what is read back from it.

Jobs live in the manager's own namespace, not beside the devices: who may make pods there could otherwise be the runner.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import Field

from crds.conditions import parse_timestamp
from crds.models.base import Model, ObjectMeta, validate
from crds.models.firmwarerollout import DeviceFlash, FirmwareRollout
from crds.models.flash_report import Goal
from flash_controller.domain.attempts import Attempt
from flash_controller.domain.selection import Target

COMPONENT: Final = "app.kubernetes.io/component"
RUNNER: Final = "flash-runner"
"""Label of Jobs, pods and the Leases of devices; name of the ServiceAccount."""

_PREFIX: Final = "edge.fluidos.eu/flash-"
GRACE_SECONDS: Final = 60
"""What a runner that is told to stop has for leaving the device on an image that is confirmed."""
KEPT_SECONDS: Final = 3600
"""Finished Jobs, for their logs; the rollout's status is what is kept for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerForm:
    """What all runners have in common.

    Attributes:
        namespace: where their Jobs live.
        image: of their container.
        folder: on every node, mounted at the same path: a cache of images, and the Workload API's socket.
        arguments: flags beside those of the attempt, such as the agent's address; `$(HOST_IP)` is the node's.
    """

    namespace: str
    image: str
    folder: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashJob:
    """A Job of ours, read back."""

    rollout: tuple[str, str]
    rollout_uid: str
    device: str
    attempt: Attempt
    ending: bool = False
    """It was told to stop."""

    @property
    def leaf(self) -> tuple[str, str]:
        """The LeafDevice that it flashes."""
        return self.rollout[0], self.device


def job_name(rollout_uid: str, device: str, attempt: int) -> str:
    """The same for the same attempt, whatever became of the manager that created it."""
    digest = hashlib.sha256("\0".join((rollout_uid, device, str(attempt))).encode()).hexdigest()
    return f"flash-{digest[:40]}"


def job_of(
    rollout: FirmwareRollout, flash: DeviceFlash, target: Target, *, node: str, form: RunnerForm
) -> dict[str, Any]:
    """The Job of a device's next attempt.

    It runs on the device's node, once: what is tried again, and when, is the rollout's to say.
    """
    spec, meta, attempt = rollout.spec, rollout.metadata, flash.attempts + 1
    says = {
        "namespace": meta.namespace or "",
        "rollout": meta.name,
        "rollout-uid": meta.uid or "",
        "device": flash.name,
        "attempt": str(attempt),
        "goal": flash.goal,
    }
    means = {
        "firmware": target.firmware,
        "digest": target.digest,
        "policy": "Always" if flash.goal == "RollBack" else spec.policy,
        "attestation": spec.attestation,
        "cache": f"{form.folder}/images",
    }
    labels = {COMPONENT: RUNNER}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(meta.uid or "", flash.name, attempt),
            "namespace": form.namespace,
            "labels": labels,
            "annotations": {_PREFIX + key: value for key, value in says.items()},
        },
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": spec.device_timeout_seconds,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            # An attempt whose pod still ends is not over: it may still hold the device.
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "nodeName": node,
                    "serviceAccountName": RUNNER,
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "containers": [_container(form, says | means)],
                    "volumes": [{"name": "folder", "hostPath": {"path": form.folder, "type": "Directory"}}],
                },
            },
        },
    }


def _container(form: RunnerForm, flags: Mapping[str, str]) -> dict[str, Any]:
    words = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
    return {
        "name": RUNNER,
        "image": form.image,
        "command": ["python", "-m", "flash_controller.runner"],
        "args": [*words, *form.arguments],
        "env": [{"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}],
        "volumeMounts": [{"name": "folder", "mountPath": form.folder}],
        "resources": {"requests": {"cpu": "20m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


class _Says(Model):
    """The annotations of a Job."""

    namespace: str
    rollout: str
    rollout_uid: Annotated[str, Field(alias="rollout-uid")]
    device: str
    attempt: Annotated[str, Field(pattern=r"^[0-9]{1,6}$")]
    goal: Goal


def flash_job(obj: Mapping[str, Any]) -> FlashJob:
    """Read a Job back.

    Raises:
        InvalidField: it does not say what it was created for.
    """
    meta = validate(ObjectMeta, obj["metadata"], field="metadata")
    said = {key.removeprefix(_PREFIX): value for key, value in meta.annotations.items() if key.startswith(_PREFIX)}
    says = validate(_Says, said, field="metadata.annotations")
    conditions = [each for each in obj.get("status", {}).get("conditions") or () if each["status"] == "True"]
    # A Job that fails for its deadline says so at once, and that it has failed when its pod has ended.
    failures = [each for each in conditions if each["type"] in ("Failed", "FailureTarget")]
    failed: Mapping[str, Any] = failures[0] if failures else {}
    return FlashJob(
        rollout=(says.namespace, says.rollout),
        rollout_uid=says.rollout_uid,
        device=says.device,
        attempt=Attempt(
            job=meta.name,
            number=int(says.attempt),
            goal=says.goal,
            active=not any(each["type"] in ("Complete", "Failed") for each in conditions),
            timed_out=failed.get("reason") == "DeadlineExceeded",
            message=str(failed.get("message", "")),
            stopping=parse_timestamp(meta.deletion_timestamp or str(failed.get("lastTransitionTime", ""))),
        ),
        ending=meta.deletion_timestamp is not None,
    )
