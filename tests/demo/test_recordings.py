"""What the simulator replays: the weather that ships with a package, and files of people's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.errors import InvalidField
from scripts.simulator.recordings import Recording, replay, weather


def recording(tmp_path: Path, text: str | bytes) -> Recording:
    file = tmp_path / "own.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return replay(file)


def test_weather_is_of_three_stations_in_units_of_our_flavors() -> None:
    stations = weather()
    assert set(stations) == {"EWR", "JFK", "LGA"}
    first = stations["EWR"].rows[0]
    # The file says 39.02 degF, 59.37 %, 1012 hPa, 10.357 mph, 10 miles.
    assert first.values == {
        "temperature": 3.9,
        "humidity": 59.37,
        "pressure": 1012.0,
        "windSpeed": 4.63,
        "visibility": 16093.44,
    }
    assert first.recorded_at == "2013-01-01T06:00:00Z"


def test_weather_leaves_out_what_was_not_recorded() -> None:
    rows = [row for station in weather().values() for row in station.rows]
    assert any("pressure" not in row.values for row in rows)
    assert all(row.values for row in rows)


def test_numeric_columns_become_members_and_others_do_not(tmp_path: Path) -> None:
    own = recording(tmp_path, "time,co2,room\n2024-01-01T00:00:00Z,412.5,kitchen\n2024-01-01T00:01:00Z,413,kitchen\n")
    assert [dict(row.values) for row in own.rows] == [{"co2": 412.5}, {"co2": 413.0}]
    assert own.rows[0].recorded_at == "2024-01-01T00:00:00Z"
    assert own.complaints == ()


def test_a_missing_cell_leaves_its_member_out(tmp_path: Path) -> None:
    own = recording(tmp_path, "a,b\n1,NA\n,2\nNaN,null\n3,4\n")
    assert [dict(row.values) for row in own.rows] == [{"a": 1.0}, {"b": 2.0}, {"a": 3.0, "b": 4.0}]
    assert own.complaints == ("line 4: no number in it",)


def test_bad_rows_are_named_and_skipped(tmp_path: Path) -> None:
    own = recording(tmp_path, "a,b\n1,2\n1\n3,oops\n5,6\n7,inf\n8,9\n")
    assert [dict(row.values) for row in own.rows] == [{"a": n, "b": n + 1} for n in (1.0, 5.0, 8.0)]
    assert own.complaints == (
        "line 3: 1 cells, expected 2",
        "line 4: b: 'oops' is not a number",
        "line 6: b: 'inf' is not a number",
    )


def test_a_column_that_is_mostly_text_is_named(tmp_path: Path) -> None:
    own = recording(tmp_path, "a,b\n1,2\n2,x\n3,y\n")
    assert [dict(row.values) for row in own.rows] == [{"a": 1.0}, {"a": 2.0}, {"a": 3.0}]
    assert own.complaints == ("column b: 1 of 3 cells are numbers, not sent",)


def test_many_complaints_are_counted(tmp_path: Path) -> None:
    own = recording(tmp_path, "a\n1\n" + "1,2\n" * 20)
    assert len(own.complaints) == 6
    assert own.complaints[-1] == "and 15 more"


def test_what_the_reading_says_itself_is_not_taken_from_the_file(tmp_path: Path) -> None:
    own = recording(tmp_path, "id,a\n1,2\n")
    assert dict(own.rows[0].values) == {"a": 2.0}
    assert own.complaints == ("column id: the reading has its own, not sent",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a header row"),
        ("a,b\n", "at least one row with a number"),
        ("a,a\n1,2\n", "a distinct name"),
        ("a,\n1,2\n", "a distinct name"),
        ("a,b\nx,y\n", "at least one row with a number"),
        (b"\xff\xfe\x00", "a readable CSV file in UTF-8"),
        ('a\n"1', "a readable CSV file in UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(InvalidField, match=said):
        recording(tmp_path, text)


def test_a_file_that_is_not_there_or_is_a_folder_says_so(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(InvalidField, match=str(path)):
            replay(path)


@given(text=st.binary(max_size=200))
def test_no_file_makes_it_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    try:
        own = recording(tmp_path_factory.mktemp("csv"), text)
    except InvalidField:
        return
    assert own.rows
    assert all(row.values for row in own.rows)
