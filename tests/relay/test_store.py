"""What the relay remembers: every change is on disk, whatever was cut off, full or newer."""

from pathlib import Path

import pytest

from router_manager.domain.admission import Grant, Grants
from router_manager.domain.table import Change, Table, difference
from router_manager.relay.store import Stored, StoredTable
from tests.relay.support import endpoint, route, table

URL = "http://127.0.0.1:1/"


def routes(*uids: str, target: str = "target") -> Table:
    return table(*(route(endpoint(URL, target), uid=uid) for uid in uids))


def apply(stored: StoredTable, new: Table) -> Change:
    change = difference(stored.table, new, head=5)
    stored.put(change)
    return change


def test_a_table_is_what_its_changes_made_of_it(tmp_path: Path) -> None:
    stored = StoredTable(tmp_path, head=5)
    for new in (routes("a", "b"), routes("a", "b", "c"), routes("a", "c", target="other"), routes("c")):
        apply(stored, new)
    again = StoredTable(tmp_path, head=5)
    assert again.table == stored.table
    assert {one.uid for one in again.table.routes} == {"c"}
    assert again.table.since == {"c": {"a/b": 5}}


def test_a_change_that_was_cut_off_is_none_and_the_next_one_counts(tmp_path: Path) -> None:
    stored = StoredTable(tmp_path, head=5)
    apply(stored, routes("a"))
    journal = tmp_path / "table.changes"
    journal.write_bytes(journal.read_bytes() + b'{"put":{"vers')
    again = StoredTable(tmp_path, head=5)
    assert again.table == stored.table
    apply(again, routes("a", "b"))
    assert StoredTable(tmp_path, head=5).table == again.table


def test_a_journal_is_folded_into_the_table_before_it_is_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router_manager.relay.store._MAX_JOURNAL_BYTES", 2000)
    stored = StoredTable(tmp_path, head=5)
    for count in range(40):
        apply(stored, routes(*(f"route-{number}" for number in range(count))))
        assert not (tmp_path / "table.changes").exists() or (tmp_path / "table.changes").stat().st_size <= 2000
    assert StoredTable(tmp_path, head=5).table == stored.table


def test_an_old_journal_does_no_harm_to_a_newer_table(tmp_path: Path) -> None:
    stored = StoredTable(tmp_path, head=5)
    apply(stored, routes("a", target="first"))
    apply(stored, routes("a", target="second"))
    (tmp_path / "table.json").write_text(stored.table.model_dump_json(by_alias=True))
    journal = (tmp_path / "table.changes").read_bytes().splitlines(keepends=True)
    (tmp_path / "table.changes").write_bytes(journal[0])
    assert StoredTable(tmp_path, head=5).table.routes[0].targets[0].name == "second"


def test_a_disk_that_takes_nothing_is_tried_again(tmp_path: Path) -> None:
    stored, grants = StoredTable(tmp_path, head=5), Stored(tmp_path)
    (tmp_path / "table.changes").mkdir()
    (tmp_path / "grants.new").mkdir()
    apply(stored, routes("a"))
    grants.put("grants", Grants(accounts={"mapper": Grant()}))
    assert grants.load("grants", Grants()) == Grants()
    (tmp_path / "table.changes").rmdir()
    (tmp_path / "grants.new").rmdir()
    stored.save()
    grants.save()
    assert StoredTable(tmp_path, head=5).table == stored.table
    assert grants.load("grants", Grants()) == Grants(accounts={"mapper": Grant()})


def test_a_mark_that_the_disk_never_reached_is_none_when_its_ids_are_given_out_again(tmp_path: Path) -> None:
    apply(StoredTable(tmp_path, head=5), routes("a"))
    after_a_crash = StoredTable(tmp_path, head=3)
    assert after_a_crash.table.since == {"a": {"a/b": 3}}
    assert StoredTable(tmp_path, head=9).table == after_a_crash.table


def test_a_damaged_table_is_none(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text('{"routes": [{"uid"')
    assert StoredTable(tmp_path, head=5).table == Table()
