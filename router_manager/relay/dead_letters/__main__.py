"""`python -m router_manager.relay.dead_letters`: what people do with dead letters, whether the relay runs or not.

A replay moves files to a folder that the relay looks into; so the command asks it for nothing, and needs no right but
that to the state folder.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from crds.errors import InvalidField
from router_manager.domain.encoding import rfc3339
from router_manager.domain.table import LaneKey
from router_manager.relay.dead_letters.letter import Letter
from router_manager.relay.dead_letters.store import SUFFIX, key_of, put_aside


@dataclass(slots=True)
class Pile:
    """The dead letters of one target."""

    route: str
    target: str
    files: list[Path] = field(default_factory=list)
    replayed: list[Path] = field(default_factory=list)
    """Files that the relay is to send again."""

    def letters(self) -> Iterator[Letter]:
        """All that can be read, oldest files first."""
        # What was put aside has a comma where the file that is still written has its suffix.
        for path in (*sorted(self.replayed), *sorted(self.files)):
            with suppress(FileNotFoundError), path.open("rb") as file:
                for line in file:
                    try:
                        yield Letter.parse(line)
                    except InvalidField as error:
                        print(f"{path}: {error}", file=sys.stderr)


def piles(state: Path, *, route: str | None = None, target: str | None = None) -> list[Pile]:
    """What there is in a relay's state folder, with its parts.

    Args:
        state: `--state-dir` of the relay.
        route: `namespace/name` of the only one that is wanted.
        target: the only one that is wanted.
    """
    found: dict[tuple[Path, LaneKey], Pile] = {}
    folders = [state, *(part for part in sorted(state.iterdir()) if part.is_dir())]
    for folder in folders:
        for kind in ("dead-letters", "replay"):
            for path in sorted((folder / kind).glob(f"*{SUFFIX}")):
                pile = found.setdefault((folder, key_of(path)), Pile("", ""))
                (pile.files if kind == "dead-letters" else pile.replayed).append(path)
    for pile in found.values():
        for letter in islice(pile.letters(), 1):
            pile.route, pile.target = str(letter.route), letter.target
    return [pile for pile in found.values() if route in (None, pile.route) and target in (None, pile.target)]


def show_piles(chosen: Sequence[Pile]) -> None:
    """One line a target, and one for each reason."""
    for pile in chosen:
        letters = list(pile.letters())
        times = [letter.record.ingested_ns for letter in letters]
        span = f"{rfc3339(min(times))} to {rfc3339(max(times))}" if times else "unreadable"
        replay = f", {len(pile.replayed)} files to be replayed" if pile.replayed else ""
        print(f"{pile.route} {pile.target}: {len(letters)} letters, {span}{replay}")
        for reason, count in Counter(letter.reason for letter in letters).most_common(5):
            print(f"    {count} x {reason}")


def show_letters(chosen: Sequence[Pile], *, limit: int) -> None:
    """NDJSON, as they are kept."""
    for letter in islice((letter for pile in chosen for letter in pile.letters()), limit):
        sys.stdout.buffer.write(letter.line())
    sys.stdout.buffer.flush()


def replay(chosen: Sequence[Pile]) -> int:
    """Have the relay send them again: at once if it runs, else when it starts.

    Returns:
        How many files.
    """
    for pile in chosen:
        for path in pile.files:
            folder = path.parent.parent / "replay"
            folder.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):
                put_aside(path, folder)
    return sum(len(pile.files) for pile in chosen)


def drop(chosen: Sequence[Pile]) -> int:
    """Delete them, also those that are to be replayed.

    Returns:
        How many files.
    """
    paths = [path for pile in chosen for path in (*pile.files, *pile.replayed)]
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m router_manager.relay.dead_letters", description=__doc__)
    parser.add_argument("action", choices=["list", "show", "replay", "drop"])
    parser.add_argument("--state-dir", type=Path, required=True, help="folder of the relay")
    parser.add_argument("--route", help="namespace/name; all if not given")
    parser.add_argument("--target", help="name of a target; all if not given")
    parser.add_argument("--limit", type=int, default=100, help="letters that `show` shows")
    asked = parser.parse_args(arguments)
    if not asked.state_dir.is_dir():
        parser.error(f"--state-dir: {asked.state_dir} is no folder")
    chosen = piles(asked.state_dir, route=asked.route, target=asked.target)
    match asked.action:
        case "list":
            show_piles(chosen)
        case "show":
            show_letters(chosen, limit=asked.limit)
        case "replay":
            print(f"{replay(chosen)} files are to be replayed")
        case _:
            print(f"{drop(chosen)} files dropped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
