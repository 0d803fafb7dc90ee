"""Conditions: decided as values, stamped when they change, equal when only the stamp differs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from crds.models.base import Condition


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A condition without its time."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""


def stamp(
    verdicts: Iterable[Verdict], *, before: Iterable[Condition], generation: int | None, now: datetime
) -> tuple[Condition, ...]:
    """Conditions to write; `lastTransitionTime` stays where the status did not change, as the API conventions ask."""
    earlier = {condition.type: condition for condition in before}
    stamped = []
    for verdict in verdicts:
        last = earlier.get(verdict.type)
        kept = last is not None and last.status == verdict.status
        stamped.append(
            Condition(
                type=verdict.type,
                status=verdict.status,
                reason=verdict.reason,
                message=verdict.message[:32768],
                observed_generation=generation,
                last_transition_time=last.last_transition_time if last is not None and kept else timestamp(now),
            )
        )
    return tuple(stamped)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, whole seconds, as metav1.Time is written."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime | None:
    """RFC 3339, or None."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
