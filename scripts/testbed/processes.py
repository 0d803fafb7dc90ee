"""Children of the testbed: started in a group of their own, watched while they come up, never left behind.

Three things end a child: `Child.stop` on every orderly way out, SIGTERM turned into an exception by
`exit_on_signals` so that the orderly way is taken, and the kernel (PR_SET_PDEATHSIG) when we are killed outright.
"""

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from types import FrameType
from typing import Final, Self

PR_SET_PDEATHSIG: Final = 1
POLL_SECONDS: Final = 0.02
KILL_LIMIT_SECONDS: Final = 10.0
TAIL_BYTES: Final = 4096
# Below Linux' ephemeral range (32768-60999): no outgoing connection can take the port of a server that restarts.
PORTS: Final = range(20000, 32768)

_prctl = ctypes.CDLL(None, use_errno=True).prctl


class ChildFailedError(RuntimeError):
    """A child ended, or was not ready in time; the message holds the tail of its log."""


class _Spawner:
    """Forks every child from one thread that lives as long as this process.

    The kernel sends PDEATHSIG when the *thread* that forked ends, not the process: a child started from a pool's worker
    would die with that worker.
    """

    def __init__(self) -> None:
        self._requests: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = Lock()
        self._thread: Thread | None = None

    def popen(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._thread is None:
                self._thread = Thread(target=self._serve, name="testbed-spawner", daemon=True)
                self._thread.start()
        answers: SimpleQueue[subprocess.Popen[bytes] | OSError | subprocess.SubprocessError] = SimpleQueue()

        def request() -> None:
            try:
                answers.put(start())
            except (OSError, subprocess.SubprocessError) as error:
                answers.put(error)

        self._requests.put(request)
        answer = answers.get(timeout=30)
        if isinstance(answer, subprocess.Popen):
            return answer
        raise answer

    def _serve(self) -> None:
        while True:
            self._requests.get()()


_spawner = _Spawner()


class Child:
    """One program that runs under us.

    Args:
        name: What messages call it, and its log: `<name>.log`.
        command: Program and arguments.
        directory: Its working directory, which must exist.
        logs: Folder of its log, made when absent; `directory` by default. A restarted child appends.
        environment: Its whole environment; ours by default.

    Raises:
        ChildFailedError: The program cannot be started.
    """

    def __init__(
        self,
        *,
        name: str,
        command: Sequence[str | os.PathLike[str]],
        directory: Path,
        logs: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = (logs or directory) / f"{name}.log"
        self._gone = False
        self.log.parent.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()

        def die_with_parent() -> None:
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # the parent died before the kernel was told to watch it
                os._exit(1)

        with self.log.open("ab") as log:
            self._log_start = log.tell()

            def start() -> subprocess.Popen[bytes]:
                return subprocess.Popen(
                    [os.fspath(word) for word in command],
                    cwd=directory,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    process_group=0,  # Ctrl-C reaches us alone; we stop the children in order
                    preexec_fn=die_with_parent,  # noqa: PLW1509 - calls prctl, which was bound before the fork, and no more
                )

            try:
                self._process = _spawner.popen(start)
            except (OSError, subprocess.SubprocessError) as error:
                raise ChildFailedError(f"{name}: cannot start {command[0]}: {error}") from error

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its process group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code (negative: the signal), or None while it runs."""
        return self._process.poll()

    def tail(self) -> str:
        """The end of what it has logged since this start, at most 4 KiB."""
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - TAIL_BYTES))
            return log.read().decode(errors="replace").strip()

    def wait_until(self, ready: Callable[[], bool], *, what: str, limit: float = 30.0) -> None:
        """Asks `ready` again and again until it says True.

        Args:
            ready: Must return soon; is asked every 20 ms.
            what: What is waited for, for the message.
            limit: Seconds.

        Raises:
            ChildFailedError: The child ended, or the limit passed.
        """
        deadline = time.monotonic() + limit
        while not ready() or self.exit_code is not None:
            if self.exit_code is not None:
                raise ChildFailedError(f"{self.name} ended with code {self.exit_code} before {what}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ChildFailedError(f"{self.name}: no {what} within {limit:g} s:\n{self.tail()}")
            time.sleep(POLL_SECONDS)

    def wait(self, *, limit: float) -> int:
        """Waits for its end and returns the exit code.

        Raises:
            ChildFailedError: It still runs after `limit` seconds.
        """
        try:
            return self._process.wait(limit)
        except subprocess.TimeoutExpired:
            raise ChildFailedError(f"{self.name} still runs after {limit:g} s:\n{self.tail()}") from None

    def terminate(self) -> None:
        """Asks the whole group to end, without waiting."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the whole group at once and waits until it is gone."""
        self._signal(signal.SIGKILL)
        self._process.wait(KILL_LIMIT_SECONDS)
        self._gone = True

    def stop(self, *, timeout: float = 5.0) -> None:
        """SIGTERM, `timeout` seconds of grace, then SIGKILL for whatever is left of the group. Safe to repeat."""
        stop_all([self], timeout=timeout)

    def await_end(self, timeout: float) -> None:
        """Waits for its end for so many seconds, then kills whatever is left of the group."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        if self._gone:  # its number may be another's by now
            return
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            self._gone = True


def stop_all(children: Sequence[Child], *, timeout: float = 5.0) -> None:
    """Stops children side by side: all are asked first, then each is waited for, `timeout` seconds in all.

    Each is asked once: to many servers a second SIGTERM means to leave without order.
    """
    deadline = time.monotonic() + timeout
    for child in children:
        child.terminate()
    for child in children:
        child.await_end(max(0.0, deadline - time.monotonic()))


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now. Whoever binds it must be ready to lose the race.

    Raises:
        OSError: A hundred random ports were all taken.
    """
    for _ in range(100):
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free TCP port among a hundred of {PORTS.start}-{PORTS.stop - 1} on 127.0.0.1")


def accepts(port: int) -> bool:
    """Whether someone listens on this TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP end the block as an exception does, so that every `with` inside cleans up."""

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
