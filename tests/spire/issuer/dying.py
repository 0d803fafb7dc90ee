"""An issuer's stores under a process that dies at each step of the file system, one after the other.

`python -m tests.spire.issuer.dying DIRECTORY` ends with status 0 when every successor went on from what its predecessor
had published, and prints how many steps there were to die at.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from spire.domain.spiffe_id import TrustDomain
from spire.issuer.authority import EmbeddedAuthority
from spire.issuer.federation import Federation
from spire.issuer.store import FileStore, locked
from tests.spire.issuer.federating import PEER, configured

STEPS = ("open", "fsync", "rename", "close")
MANY = 200
NEVER = -1


def main(directory: Path) -> int:
    """Die at the first step, at the second ... until a life has no such step any more."""
    for step in range(1, MANY):
        home = directory / str(step)
        home.mkdir()
        code = _fork(home, die_at=step)
        published = _published(home)
        if _fork(home, die_at=NEVER) != 0:
            raise AssertionError(f"no successor after step {step}")
        # Its first words are about what it found.
        found = _published(home)[len(published)]
        for sequence, roots in published:
            if found[0] < sequence or not roots <= found[1]:
                raise AssertionError(f"an authority was lost at step {step}")
        if code == 0:
            print(step - 1)
            return 0
    return 1


def _fork(home: Path, *, die_at: int) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        _live(home, die_at=die_at)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _live(home: Path, *, die_at: int) -> None:
    left = die_at

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def die_or(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*args, **more)

        return die_or

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    with locked(home / "state"):
        asyncio.run(_work(home))


async def _work(home: Path) -> None:
    """Begin, learn of a peer, and prepare a successor."""
    late = timedelta()
    authority = await EmbeddedAuthority.open(
        FileStore(home / "state" / "authority.json"),
        trust_domain=TrustDomain("a.example"),
        lifetime=timedelta(days=6),
        clock=lambda: datetime.now(UTC) + late,
    )
    federation = await Federation.open(FileStore(home / "state" / "federation.json"))
    known = federation.bundles
    _publish(home, authority)
    if (home / "peers").exists() and PEER not in known:
        raise AssertionError("the federation was lost")
    federation.configure(configured())
    work = asyncio.create_task(federation.run())
    late = timedelta(days=3, minutes=1)
    await authority.look()
    _publish(home, authority)
    async with asyncio.timeout(10):
        while True:
            if (home / "state" / "federation.json").exists():
                break
            await asyncio.sleep(0.005)
    (home / "peers").touch()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


def _publish(home: Path, authority: EmbeddedAuthority) -> None:
    with open(home / "published", "a") as file:
        print(authority.bundle.sequence, *(root.hex() for root in authority.bundle.roots), file=file)


def _published(home: Path) -> list[tuple[int, set[str]]]:
    path = home / "published"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(int(sequence), set(roots)) for sequence, *roots in lines]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
