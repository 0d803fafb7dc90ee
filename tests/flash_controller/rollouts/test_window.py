"""Maintenance windows, on clocks that are put forward and back."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.errors import InvalidField
from crds.models.firmwarerollout import Window
from flash_controller.domain.window import opening

NIGHT = Window(start="22:30", duration_seconds=4 * 3600, timezone="Europe/Berlin", days=("Fri",))


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2026-11-20T12:00:00+00:00", "2026-11-20T21:30:00+00:00"),  # Friday noon
        ("2026-11-20T21:30:00+00:00", "2026-11-20T21:30:00+00:00"),  # just open
        ("2026-11-21T01:29:59+00:00", "2026-11-21T01:29:59+00:00"),  # Saturday, but it began on Friday
        ("2026-11-21T01:30:00+00:00", "2026-11-27T21:30:00+00:00"),  # over
        ("2026-07-01T00:00:00+00:00", "2026-07-03T20:30:00+00:00"),  # summer
    ],
)
def test_a_window_opens_on_its_days_by_its_own_clocks(now: str, opens: str) -> None:
    assert opening(NIGHT, now=datetime.fromisoformat(now)) == datetime.fromisoformat(opens)


def test_a_start_that_the_clocks_leave_out_is_an_hour_later_and_one_that_they_show_twice_is_the_first() -> None:
    window = Window(start="02:30", duration_seconds=60, timezone="Europe/Berlin")
    spring, autumn = datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)
    assert opening(window, now=spring) == spring.replace(hour=1, minute=30)  # 03:30 in summer time
    assert opening(window, now=autumn) == autumn.replace(minute=30)


def test_a_time_zone_that_nobody_knows_is_named() -> None:
    with pytest.raises(InvalidField, match=r"spec.window.timezone: 'Mars/Olympus'"):
        opening(Window(start="02:30", duration_seconds=60, timezone="Mars/Olympus"), now=datetime.now(UTC))


@given(
    now=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - see timezones
    minute=st.integers(0, 24 * 60 - 1),
    duration=st.integers(60, 86400),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Kiritimati", "Australia/Lord_Howe"]),
)
def test_it_opens_within_a_day_or_so_and_is_open_then(now: datetime, minute: int, duration: int, zone: str) -> None:
    window = Window(start=f"{minute // 60:02}:{minute % 60:02}", duration_seconds=duration, timezone=zone)
    opens = opening(window, now=now)
    assert now <= opens <= now + timedelta(hours=26)
    assert opening(window, now=opens) == opens
