"""What a process says to a clumsy caller: the flag, the value and what was expected, and no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
RELAY = ("router_manager.relay", "--node", "edge-1", "--state-dir", "unused")


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        ((*RELAY, "--broker", "foo"), 2, "--broker: 'foo' is not valid, expected mqtts://host[:port]"),
        (("router_manager.relay",), 2, "--node: it is required"),
        (RELAY, 1, "give --identity-socket (or SPIFFE_ENDPOINT_SOCKET), or --insecure"),
        (("router_manager",), 1, "give --identity-socket (or SPIFFE_ENDPOINT_SOCKET), or --insecure"),
        (("edge_resource_manager", "--node-grace-seconds", "-1"), 2, "--node-grace-seconds: '-1' is not valid"),
        (("router_manager", "--kubeconfig", "/nowhere"), 2, "--kubeconfig: '/nowhere' is not valid, expected a file"),
        (
            ("edge_resource_manager.gateway", "--kubeconfig", "/nowhere"),
            2,
            "--kubeconfig: '/nowhere' is not valid, expected a file",
        ),
    ],
)
def test_a_wrong_flag_is_named(command: tuple[str, ...], status: int, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
