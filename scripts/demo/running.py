"""A demo that is left running: what to try with it, and how to end it from elsewhere."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console

from scripts.demo.inventory import NAMESPACE
from scripts.demo.story import Story

PREFIX: Final = "fluidos-edge-demo-"
PID_FILE: Final = "demo.pid"
STOP_SECONDS: Final = 30.0


def keep(console: Console, story: Story, *, ready: Callable[[], None]) -> None:
    """Let the devices publish on, say what to try, and wait for SIGTERM.

    Args:
        console: for what can be tried.
        story: has been told.
        ready: is called when all has been said.

    Raises:
        ChildFailedError: a process ended.
    """
    if story.boards is not None:
        story.boards.repair()
    story.start_devices("devices-kept", "--rate", "1")
    sites = [*story.consumers, *story.providers]
    consumer, provider = story.consumers[0].cluster.context, story.providers[0].cluster.context
    found = shutil.which("kubectl")
    path = () if found and Path(found) == story.kubectl else (f"export PATH={story.kubectl.parent}:$PATH",)
    kubectl = "kubectl --context"
    for line in (
        "",
        f"export KUBECONFIG={story.kubeconfig}",
        *path,
        f"contexts: {', '.join(site.cluster.context for site in sites)}; namespace {NAMESPACE}",
        "to try:",
        f"  {kubectl} {provider} get fluidos -A",
        f"  {kubectl} {consumer} get sensorclaims -o wide",
        f"  {kubectl} {provider} annotate device stwin-box-1 sensors- --overwrite   # and look at the claims again",
        *((f"  {kubectl} {provider} get firmwares,firmwarerollouts -o wide",) if story.options.repurpose else ()),
        "to end it: scripts/demo.sh --stop",
    ):
        console.print(line, markup=False, soft_wrap=True)
    ready()
    try:
        while True:
            story.crew.check()
            time.sleep(0.5)
    except (KeyboardInterrupt, SystemExit):
        console.print("stopping ...")


def stop() -> int:
    """End every demo of this user; 1 when one does not end."""
    found = [(pid, folder) for folder in _folders() if (pid := _demo_of(folder))]
    for pid, _ in found:
        print(f"stopping the demo with process id {pid}")
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while any(_demo_of(folder) for _, folder in found):
        if time.monotonic() > deadline:
            print(f"it still runs after {STOP_SECONDS:g} s", file=sys.stderr)
            return 1
        time.sleep(0.1)
    for folder in _folders():  # of a demo that was killed outright
        if not _demo_of(folder):
            shutil.rmtree(folder, ignore_errors=True)
    print("stopped" if found else "no demo is running")
    return 0


def _folders() -> list[Path]:
    return [folder for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if folder.lstat().st_uid == os.getuid()]


def _demo_of(folder: Path) -> int | None:
    """The process id of the demo that runs with this folder; ids are used again, so its command line has to fit."""
    try:
        pid = int((folder / PID_FILE).read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if b"scripts.demo" in command else None
