"""Maintenance windows: when a flash may begin, on the clocks of the place where the devices are."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from crds.errors import InvalidField
from crds.models.firmwarerollout import Window

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def zone_of(window: Window) -> ZoneInfo:
    """The time zone.

    Raises:
        InvalidField: no such zone is known here.
    """
    try:
        return ZoneInfo(window.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidField(
            field="spec.window.timezone", value=window.timezone, expected="a name of the IANA time zone database"
        ) from error


def opening(window: Window, *, now: datetime) -> datetime:
    """`now` while the window is open, else the moment at which it opens next, in UTC.

    It opens when the clocks show `start` (the first time, where they are put back; an hour later, where that hour is
    left out), and stays open for its seconds whatever the clocks do then.

    Raises:
        InvalidField: no such time zone is known here.
    """
    zone = zone_of(window)
    start = time.fromisoformat(window.start)
    yesterday = now.astimezone(zone).date() - timedelta(days=1)
    for number in range(9):
        day = yesterday + timedelta(days=number)
        if _DAYS[day.weekday()] not in window.days:
            continue
        opens = datetime.combine(day, start, tzinfo=zone).astimezone(UTC)
        if now < opens + timedelta(seconds=window.duration_seconds):
            return max(opens, now)
    raise AssertionError("every week has each of its days")
