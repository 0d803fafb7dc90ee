"""How a benchmark tells its result: a table for people, and one line of JSON for machines, last."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number with its goal.

    Attributes:
        key: camelCase with the unit, for the JSON line.
        peer: what the other side, or the limit, did in the same run.
    """

    key: str
    text: str
    value: float
    goal: float
    holds: Literal["at most", "at least", "below"]
    peer: str = ""

    @property
    def passed(self) -> bool:
        """The goal is met."""
        match self.holds:
            case "at most":
                return self.value <= self.goal
            case "at least":
                return self.value >= self.goal
            case "below":
                return self.value < self.goal


def spread(values: Sequence[float]) -> str:
    """Median, least and most."""
    return f"{_short(statistics.median(values))} ({_short(min(values))} to {_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> str:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.machine())
    load = os.getloadavg()[0]
    return (
        f"machine: {os.cpu_count()} x {model}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, load {load:.1f} at the end"
    )


def finish(benchmark: str, figures: Sequence[Figure], *, page: Path | None = None) -> int:
    """Print table, machine and JSON line.

    Args:
        benchmark: its name.
        figures: what it measured.
        page: in Markdown, between whose lines `<!-- figures -->` and `<!-- end -->` the table is written, too.

    Returns:
        The exit status: 0 when every goal is met.
    """
    rows = [("figure", "value", "goal", "peer in the same run", "")]
    rows += [
        (one.text, f"{one.value:.3g}", f"{one.holds} {one.goal:.3g}", one.peer, "pass" if one.passed else "FALLS SHORT")
        for one in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(machine())
    if page is not None:
        before, mark, rest = page.read_text().partition("<!-- figures -->\n")
        lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        page.write_text(
            f"{before}{mark}{datetime.now(UTC):%Y-%m-%d}, {machine()}\n\n{table}{rest[rest.index('<!-- end -->') :]}"
        )
    passed = all(one.passed for one in figures)
    line = {
        "benchmark": benchmark,
        "figures": {one.key: round(one.value, 4) for one in figures},
        "goals": {one.key: f"{one.holds} {one.goal:g}" for one in figures},
        "pass": passed,
    }
    print(json.dumps(line), flush=True)
    return 0 if passed else 1
