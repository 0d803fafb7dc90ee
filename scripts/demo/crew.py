"""The processes of the demo, watched together: when one ends that should not, every wait ends and shows its log."""

from __future__ import annotations

import os
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final

from scripts.testbed.manifests import REPOSITORY
from scripts.testbed.processes import Child, ChildFailedError, free_port, stop_all

POLL_SECONDS: Final = 0.05
HTTP_SECONDS: Final = 5.0

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NotReachedError(RuntimeError):
    """Something did not come about in time; the message says what, and what is known of it."""


class Crew:
    """Modules of this project, run as children until `stop`.

    Args:
        directory: gets a folder for their logs and one for their temporary files, which a killed one leaves behind.
    """

    def __init__(self, directory: Path) -> None:
        self._logs = directory / "logs"
        self._temporary = directory / "tmp"
        self._temporary.mkdir()
        self._children: dict[str, Child] = {}
        self._commands: dict[str, tuple[str, tuple[str | Path, ...]]] = {}
        self._probes: dict[str, str] = {}

    def start(self, name: str, module: str, *arguments: str | Path) -> None:
        """Start `python -m module`; it has to run until `stop`."""
        self._commands[name] = (module, arguments)
        self.start_again(name)

    def start_probed(self, name: str, module: str, *arguments: str | Path) -> None:
        """The same for a process with `/readyz`, which `wait_ready` waits for."""
        port = free_port()
        self.start(name, module, *arguments, "--metrics-port", str(port))
        self._probes[name] = f"http://127.0.0.1:{port}/readyz"

    def kill(self, name: str) -> None:
        """SIGKILL to one that was started; it is not missed until `start_again`."""
        self._children.pop(name).kill()

    def start_again(self, name: str, *more: str | Path) -> None:
        """Start one as it was started first, for this once with more arguments."""
        module, arguments = self._commands[name]
        self._children[name] = self.launch(name, module, *arguments, *more)

    def arguments(self, name: str) -> tuple[str | Path, ...]:
        """Those that one was started with first."""
        return self._commands[name][1]

    def pid(self, name: str) -> int:
        """The process id of one."""
        return self._children[name].pid

    def dismiss(self, name: str) -> None:
        """End one in order; nobody waits for it any more."""
        self._children.pop(name).stop(timeout=30)
        self._probes.pop(name, None)

    def launch(self, name: str, module: str, *arguments: str | Path) -> Child:
        """Start one that may end; whoever calls sees to it."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FLUIDOS_EDGE_")}
        environment["TMPDIR"] = str(self._temporary)
        return Child(
            name=name,
            command=[sys.executable, "-m", module, *arguments],
            directory=REPOSITORY,
            logs=self._logs,
            environment=environment,
        )

    def wait_ready(self, *, limit: float) -> None:
        """Wait until every probed process says that it is ready.

        Raises:
            ChildFailedError: one ended.
            NotReachedError: one is not ready in time.
        """
        for name, url in self._probes.items():
            self.wait(lambda url=url: answers(url), what=f"{name} to be ready", limit=limit)  # type: ignore[misc]  # a default that binds the loop's variable

    def wait(
        self, reached: Callable[[], bool], *, what: str, limit: float, known: Callable[[], str] = lambda: ""
    ) -> None:
        """Ask `reached` again and again until it says True.

        Args:
            reached: must return soon.
            what: what is waited for, for the message.
            limit: seconds.
            known: what is known of it when it is too late, for the message.

        Raises:
            ChildFailedError: a process ended.
            NotReachedError: too late.
        """
        deadline = time.monotonic() + limit
        while not reached():
            self.check()
            if time.monotonic() > deadline:
                raise NotReachedError(f"waited {limit:g} s for {what}\n{known()}".rstrip())
            time.sleep(POLL_SECONDS)

    def check(self) -> None:
        """See that all still run.

        Raises:
            ChildFailedError: one ended; the message has the tail of its log.
        """
        for child in self._children.values():
            if child.exit_code is not None:
                raise ChildFailedError(f"{child.name} ended with code {child.exit_code}:\n{child.tail()}")

    def tail(self, name: str) -> str:
        """The end of a process's log."""
        child = self._children.get(name)
        return f"{name}:\n{child.tail()}" if child else ""

    def stop(self) -> None:
        """End all, side by side."""
        stop_all(list(self._children.values()))


def answers(url: str) -> bool:
    """Whether a GET there is answered with 200."""
    try:
        get(url)
    except OSError:  # urllib's errors are some, too
        return False
    return True


def get(url: str, *, put: bytes | None = None) -> bytes:
    """What a server on this machine answers to a GET, or to a PUT of something; never by way of a proxy.

    Raises:
        OSError: no answer, or not 2xx.
    """
    method = "GET" if put is None else "PUT"
    request = urllib.request.Request(url, data=put, method=method)  # noqa: S310 - a URL of our own making
    with _direct.open(request, timeout=HTTP_SECONDS) as answer:
        body: bytes = answer.read()
        return body
