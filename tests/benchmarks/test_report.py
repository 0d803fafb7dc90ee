"""Tables of benchmarks: a goal that is missed is said, in the exit status, too."""

import json
from pathlib import Path

import pytest

from benchmarks.report import Figure, finish, spread

GOOD = Figure(key="good", text="good thing", value=0.5, goal=1, holds="at most", peer="peer 2")
SHORT = Figure(key="short", text="short thing", value=0.5, goal=1, holds="at least")


def test_a_missed_goal_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert finish("x", [GOOD]) == 0
    assert finish("x", [GOOD, SHORT]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("short thing") and line.endswith("FALLS SHORT")]
    assert json.loads(last)["pass"] is False


def test_a_run_replaces_the_table_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures -->\nold\n<!-- end -->\nafter\n")
    finish("x", [GOOD], page=page)
    text = page.read_text()
    assert text.startswith("before\n<!-- figures -->\n")
    assert text.endswith("\n<!-- end -->\nafter\n")
    assert "| good thing | 0.5 | at most 1 | peer 2 | pass |" in text
    assert "old" not in text


def test_a_spread_is_median_least_and_most() -> None:
    assert spread([3.0, 1.0, 1234.0]) == "3 (1 to 1,234)"
