"""Children end with us, whatever ends us, and say what was wrong when they do not come up."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scripts.testbed.processes import PORTS, Child, ChildFailedError, accepts, free_port, stop_all

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]
PARENT = """
import signal, sys, time
from pathlib import Path
from scripts.testbed.processes import Child, exit_on_signals

signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background inherits it ignored
with exit_on_signals(), Child(name="child", command=[sys.executable, "-c", "import time; time.sleep(600)"],
                              directory=Path(sys.argv[1])) as child:
    print(child.pid, flush=True)
    time.sleep(600)
"""


def is_up(child: Child) -> bool:
    return "up" in child.tail()


def exists(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def await_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while exists(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


def test_a_stopped_child_is_gone(tmp_path: Path) -> None:
    with Child(name="sleeper", command=SLEEP, directory=tmp_path) as child:
        child.wait_until(lambda: is_up(child), what="up")
        assert exists(child.pid)
    assert not exists(child.pid)
    assert child.exit_code == -signal.SIGTERM


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    child = Child(name="stubborn", command=STUBBORN, directory=tmp_path)
    child.wait_until(lambda: is_up(child), what="up")
    child.stop(timeout=0.1)
    assert child.exit_code == -signal.SIGKILL


def test_children_of_a_child_are_stopped_with_it(tmp_path: Path) -> None:
    child = Child(name="shell", command=["sh", "-c", "sleep 600 & echo up $!; wait"], directory=tmp_path)
    child.wait_until(lambda: is_up(child), what="up")
    grandchild = int(child.tail().split()[1])
    child.stop()
    await_gone(grandchild)


def test_stopping_twice_does_no_harm(tmp_path: Path) -> None:
    child = Child(name="sleeper", command=SLEEP, directory=tmp_path)
    child.stop()
    child.stop()
    child.kill()


def test_several_children_share_one_time_limit(tmp_path: Path) -> None:
    children = [Child(name=f"stubborn-{i}", command=STUBBORN, directory=tmp_path) for i in range(3)]
    for child in children:
        child.wait_until(lambda child=child: is_up(child), what="up")  # type: ignore[misc]  # mypy cannot infer it
    stop_all(children, timeout=0.2)
    assert [child.exit_code for child in children] == [-signal.SIGKILL] * 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_whatever_ends_the_parent_ends_the_child(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert parent.stdout is not None
    with parent:
        try:
            child = int(parent.stdout.readline())
            assert exists(child)
            parent.send_signal(number)
            parent.wait(20)
        finally:
            parent.kill()  # else leaving the block would wait for ever
    await_gone(child)


def test_a_child_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    started: list[Child] = []
    thread = threading.Thread(target=lambda: started.append(Child(name="sleeper", command=SLEEP, directory=tmp_path)))
    thread.start()
    thread.join()
    with started[0] as child:
        child.wait_until(lambda: is_up(child), what="up")
        assert child.exit_code is None


def test_a_child_that_ends_early_shows_the_end_of_its_log(tmp_path: Path) -> None:
    child = Child(name="broken", command=["sh", "-c", "echo port is taken; exit 3"], directory=tmp_path)
    with pytest.raises(ChildFailedError, match=r"broken ended with code 3 before ready:\nport is taken"):
        child.wait_until(lambda: False, what="ready")


def test_a_child_that_is_not_ready_in_time_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with (
        Child(name="slow", command=SLEEP, directory=tmp_path) as child,
        pytest.raises(ChildFailedError, match=r"slow: no listener within 0\.1 s"),
    ):
        child.wait_until(lambda: False, what="listener", limit=0.1)


def test_only_the_log_of_the_present_start_is_shown(tmp_path: Path) -> None:
    for word in ("first", "second"):
        child = Child(name="echo", command=["echo", word], directory=tmp_path)
        child.wait(limit=10)
    assert child.tail() == "second"
    assert child.log.read_text() == "first\nsecond\n"


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChildFailedError, match="ghost: cannot start /no/such/program"):
        Child(name="ghost", command=["/no/such/program"], directory=tmp_path)


def test_a_free_port_is_outside_the_range_of_outgoing_connections() -> None:
    low, _high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    port = free_port()
    assert port in PORTS
    assert low > PORTS[-1] or low < 32768  # a machine with a changed range loses only this nicety
    assert not accepts(port)
