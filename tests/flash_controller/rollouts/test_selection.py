"""Which devices a rollout takes, whether they need its firmware, and the Jobs that are made of that."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from crds.errors import InvalidField
from crds.models.base import validate
from crds.models.firmware import Firmware, FirmwareStatus
from crds.models.firmwarerollout import DeviceFlash, DeviceSelection, FirmwareRollout
from crds.models.flash_report import Running
from crds.models.leafdevice import LeafDevice
from flash_controller.domain.jobs import RunnerForm, flash_job, job_of
from flash_controller.domain.selection import (
    Go,
    Judgement,
    Target,
    Unfit,
    UpToDate,
    Wait,
    current,
    judge,
    measured,
    selected,
)

A, B = "a" * 64, "b" * 64
READY = {
    "type": "Ready",
    "status": "True",
    "reason": "Ready",
    "message": "",
    "lastTransitionTime": "2026-11-21T12:00:00Z",
}


def release(letter: str, version: str) -> dict[str, Any]:
    image = {
        "board": "ESP32-S3",
        "manifestDigest": f"sha256:{letter * 64}",
        "digest": f"sha256:{letter * 64}",
        "sizeBytes": 1,
        "format": "ESPIDF",
        "measurement": letter * 64,
        "version": version,
    }
    return {"digest": f"sha256:{letter * 64}", "application": "thermo", "version": version, "boards": [image]}


def firmware(*, ready: bool = True, history: bool = False) -> Firmware:
    status = {**release("a", "2.0.0"), "conditions": [READY] if ready else []}
    if history:
        status |= {**release("c", "3.0.0"), "history": [release("a", "2.0.0"), release("b", "1.0.0")]}
    spec = {"repository": "registry.invalid/thermo", "tag": "latest"}
    return Firmware.parse({"metadata": {"name": "thermo", "namespace": "site"}, "spec": spec, "status": status})


def leaf(name: str = "t-1", *, board: str = "esp32s3", labels: dict[str, str] | None = None, **ran: Any) -> LeafDevice:
    source = {"kind": "KubeEdgeDevice", "apiVersion": "v1", "name": name}
    trust = {"tier": "Attested", "application": ran.pop("application", "thermo"), "firmware": ran}
    return LeafDevice.parse(
        {
            "metadata": {"name": name, "namespace": "site", "labels": labels or {}},
            "spec": {"nodeName": "node", "source": source, "board": {"name": board}},
            "status": {"trust": trust} if ran else {},
        }
    )


def rollout(**spec: Any) -> FirmwareRollout:
    wish = {"firmwareRef": {"name": "thermo"}, "devices": {"names": ["t-1"]}, **spec}
    meta = {"name": "roll", "namespace": "site", "uid": "uid"}
    return FirmwareRollout.parse({"metadata": meta, "spec": wish, "status": {"digest": f"sha256:{A}"}})


def judged(device: LeafDevice | None, found: Firmware | None = None, **spec: Any) -> Judgement:
    found = found or firmware(history=True)
    return judge(rollout(**spec), DeviceFlash(name="t-1"), device, found, known=measured([found]))


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ({"names": ["nobody", "t-2"]}, ("nobody", "t-2")),
        ({"selector": {"matchLabels": {"room": "1"}}}, ("t-1", "t-3")),
        ({"selector": {"matchLabels": {"room": "1"}}, "count": 1}, ("t-1",)),
        ({"count": 2}, ("t-1", "t-2")),
    ],
)
def test_selectors_and_counts_take_devices_that_the_firmware_has_a_part_for(
    selection: dict[str, Any], names: tuple[str, ...]
) -> None:
    leaves = [
        leaf("t-3", labels={"room": "1", "wall": "north"}),
        leaf("t-1", labels={"room": "1"}),
        leaf("t-2", labels={"room": "2"}),
        leaf("a-0", board="nrf52840", labels={"room": "1"}),
    ]
    found = current(firmware())
    assert found is not None
    assert selected(validate(DeviceSelection, selection), leaves, found) == names


def test_what_a_device_proved_to_run_is_traced_to_where_it_came_from() -> None:
    judgement = judged(leaf(measurement=B, version="1.0.0"))
    assert isinstance(judgement, Go)
    assert judgement.target == Target("thermo", f"sha256:{A}", A)
    assert judgement.before == Running(
        application="thermo", version="1.0.0", measurement=B, digest=f"sha256:{B}", firmware="thermo"
    )


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        (leaf(measurement=A, version="2.0.0"), UpToDate),
        (leaf(measurement="d" * 64, version="2.1.0"), UpToDate),
        (leaf(measurement="d" * 64, version="2.1.0", application="other"), Go),
        (leaf(measurement="d" * 64, version="yesterday"), Go),
        (leaf(), Go),
        (leaf(board="nrf52840"), Unfit),
        (leaf(board=""), Unfit),
        (None, Unfit),
    ],
)
def test_only_what_is_newer_is_flashed_unless_all_shall_be(device: LeafDevice | None, kind: type) -> None:
    assert type(judged(device)) is kind
    assert type(judged(device, policy="Always")) is (Go if kind is UpToDate else kind)


def test_firmware_that_lost_its_trust_is_flashed_no_further() -> None:
    assert isinstance(judged(leaf(), firmware(ready=False)), Wait)
    assert isinstance(judged(leaf(), firmware()), Go)


def test_what_is_rolled_back_goes_to_what_ran_before() -> None:
    found = firmware(history=True)
    before = Running(measurement=B, digest=f"sha256:{B}", firmware="thermo")
    flash = DeviceFlash(name="t-1", goal="RollBack", before=before)
    assert judge(rollout(), flash, leaf(), found, known={}) == Go(Target("thermo", f"sha256:{B}", B))
    unknown = DeviceFlash(name="t-1", goal="RollBack", before=Running(measurement=B))
    assert isinstance(judge(rollout(), unknown, leaf(), found, known={}), Unfit)
    assert judge(rollout(), unknown, leaf(), found, known=measured([found])) == Go(
        Target("thermo", f"sha256:{B}", B)
    ), "the catalog has learned of it since"


def test_a_firmware_without_a_status_is_waited_for() -> None:
    assert current(None) is None
    assert isinstance(judged(leaf(), firmware().model_copy(update={"status": FirmwareStatus()})), Wait)


def test_a_job_says_what_it_is_for_and_is_read_back() -> None:
    form = RunnerForm(
        namespace="fluidos", image="edge:1", folder="/var/lib/x", arguments=("--agent=https://$(HOST_IP):1",)
    )
    flash = DeviceFlash(name="t-1", attempts=1)
    manifest = job_of(rollout(), flash, Target("thermo", f"sha256:{A}"), node="node", form=form)
    job = flash_job(manifest)
    assert (job.rollout, job.rollout_uid, job.leaf) == (("site", "roll"), "uid", ("site", "t-1"))
    assert (job.attempt.number, job.attempt.active, job.ending) == (2, True, False)
    pod = manifest["spec"]["template"]["spec"]
    assert (pod["nodeName"], pod["serviceAccountName"], pod["restartPolicy"]) == ("node", "flash-runner", "Never")
    assert pod["containers"][0]["args"][-1] == "--agent=https://$(HOST_IP):1"
    ended = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "too long"}
    late = flash_job({**manifest, "status": {"conditions": [ended]}}).attempt
    assert (late.active, late.timed_out, late.message) == (False, True, "too long")
    since = "2026-11-21T12:00:00Z"
    fails = {"status": {"conditions": [{**ended, "type": "FailureTarget", "lastTransitionTime": since}]}}
    deleted = {"metadata": {**manifest["metadata"], "deletionTimestamp": since}}
    for stopping in (flash_job(manifest | fails).attempt, flash_job(manifest | deleted).attempt):
        assert (stopping.active, stopping.stopping) == (True, datetime(2026, 11, 21, 12, tzinfo=UTC))


def test_a_job_that_does_not_say_what_it_is_for_is_refused() -> None:
    with pytest.raises(InvalidField, match=r"metadata.annotations"):
        flash_job({"metadata": {"name": "flash-1", "annotations": {"edge.fluidos.eu/flash-device": "t-1"}}})
