"""The runner's command line, as a Job has it."""

from __future__ import annotations

import pytest

from crds.kube.process import settings_of
from flash_controller.runner.settings import RunnerSettings

DIGEST = "sha256:" + "1" * 64
JOB = {
    "namespace": "plant",
    "rollout": "thermo",
    "rollout-uid": "b2f1",
    "device": "board-1",
    "attempt": "2",
    "goal": "RollBack",
    "firmware": "thermo",
    "digest": DIGEST,
    "policy": "Always",
    "attestation": "Optional",
    "agent": "https://10.0.0.5:3005",
    "cache": "/var/lib/flash",
}


def parse(monkeypatch: pytest.MonkeyPatch, **other: str) -> RunnerSettings:
    flags = {key: value for key, value in (JOB | other).items() if value}
    monkeypatch.setattr("sys.argv", ["runner", *(word for key, value in flags.items() for word in (f"--{key}", value))])
    return settings_of(RunnerSettings)


def test_the_flags_of_a_job_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = parse(monkeypatch)
    assert (settings.rollout_uid, settings.attempt, settings.goal) == ("b2f1", 2, "RollBack")
    assert (settings.digest, settings.policy, settings.attestation) == (DIGEST, "Always", "Optional")


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("digest", "latest", "--digest"),
        ("digest", "", "--digest: it is required"),
        ("agent", "http://10.0.0.5:3005", "expected https://host:port"),
        ("agent", "https://10.0.0.5", "expected https://host:port"),
        ("goal", "Downgrade", "--goal"),
        ("attempt", "-1", "--attempt"),
        ("evidence-seconds", "0", "--evidence-seconds"),
        ("ota-certificate", "/etc/ota.pem", "--ota-key"),
    ],
)
def test_a_wrong_flag_is_told(
    flag: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(monkeypatch, **{flag: value})
    assert told in capsys.readouterr().err
