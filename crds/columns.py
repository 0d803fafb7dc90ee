"""Text for printer columns: of a list the API server shows the first element alone."""

from __future__ import annotations

from collections.abc import Iterable

MAX_SUMMARY = 120


def summary(names: Iterable[str]) -> str:
    """A list for people: each name once, in order, cut where a column would burst."""
    shown = ", ".join(dict.fromkeys(names))
    return shown if len(shown) <= MAX_SUMMARY else shown[: MAX_SUMMARY - 3] + "..."
