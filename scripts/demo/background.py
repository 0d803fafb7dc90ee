"""`--keep`: the demo goes on in a session of its own when the command that started it has returned."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

Ready = Callable[[int, Path], None]


def in_background(work: Callable[[Ready], int]) -> int:
    """Run `work` in a child; return with its status when it ends, or with the one that it hands to `ready`.

    Args:
        work: calls `ready(status, log)` when the caller may go; what it prints from then on goes to `log`.
    """
    heard, told = os.pipe()
    # No thread has been started yet, and whatever the child starts dies with the child, not with us.
    child = os.fork()
    if child == 0:
        os.close(heard)
        os.setsid()
        os._exit(_run(work, told))
    os.close(told)
    try:
        with os.fdopen(heard, "rb") as pipe:
            answer = pipe.read(1)
        return answer[0] if answer else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except (KeyboardInterrupt, SystemExit):
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        raise


def _run(work: Callable[[Ready], int], told: int) -> int:
    def ready(status: int, log: Path) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        silent = os.open(os.devnull, os.O_RDONLY)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for old, new in ((0, silent), (1, output), (2, output)):
            os.dup2(new, old)
        os.write(told, bytes([status]))
        os.close(told)

    try:
        status = work(ready)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:
        status = 130
    sys.stdout.flush()
    sys.stderr.flush()
    return status
