"""What the relay remembers of its API server's word, so that it goes on after a restart while that is away."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import structlog
from pydantic import ValidationError

from crds.models.base import Model
from router_manager.domain.table import Change, Table, capped, changed

log = structlog.get_logger(__name__)

_MAX_JOURNAL_BYTES = 1 << 20
M = TypeVar("M", bound=Model)


class Stored:
    """Files of one value each, written whole. A full disk delays that, and a crash until then costs the change."""

    def __init__(self, directory: Path) -> None:
        """Use a folder that is there."""
        self._directory = directory
        self._unsaved: dict[Path, Model] = {}

    def load(self, name: str, empty: M) -> M:
        """The value of a file, or `empty` where there is none or it is damaged."""
        return _load(self._directory / f"{name}.json", empty)

    def put(self, name: str, value: Model) -> None:
        """Write a value; on disk when it returns, if the disk takes it."""
        self._unsaved[self._directory / f"{name}.json"] = value
        self.save()

    def save(self) -> None:
        """Try again what the disk did not take."""
        for path, value in list(self._unsaved.items()):
            try:
                _write(path, value)
            except OSError as error:
                log.error("cannot write", file=str(path), error=str(error))
            else:
                del self._unsaved[path]


class StoredTable:
    """The table, and beside it a journal of its changes: a changed route costs its own size, not that of all.

    A line of the journal counts on a table of an older version only, so it does no harm that one file is newer.
    """

    def __init__(self, directory: Path, *, head: int) -> None:
        """Take up what the last life has left in a folder that is there.

        Args:
            directory: the folder.
            head: one more than the last record that the spool has on disk.
        """
        self._path = directory / "table.json"
        self._journal = directory / "table.changes"
        self._journal_bytes = 0
        self._stale = False
        """The files say less than the table."""
        self.table = _load(self._path, Table())
        for line in _lines(self._journal):
            self._journal_bytes += len(line)
            try:
                change = Change.model_validate_json(line)
            except ValidationError:
                # Cut off by a crash, before anybody relied on it.
                log.warning("the journal of the table ends with half a line", file=str(self._journal))
                self._stale = True
                break
            if change.put.version > self.table.version:
                self.table = changed(self.table, change)
        restored = capped(self.table, head=head)
        if restored != self.table:
            self.table, self._stale = restored, True
            self.save()

    def put(self, change: Change) -> None:
        """Remember a change; on disk when it returns, if the disk takes it."""
        self.table = changed(self.table, change)
        line = change.model_dump_json(by_alias=True).encode() + b"\n"
        if self._stale or self._journal_bytes + len(line) > _MAX_JOURNAL_BYTES:
            self._stale = True
            self.save()
            return
        try:
            with self._journal.open("ab") as file:
                file.write(line)
                file.flush()
                os.fdatasync(file.fileno())
            self._journal_bytes += len(line)
        except OSError as error:
            log.error("cannot write", file=str(self._journal), error=str(error))
            self._stale = True

    def save(self) -> None:
        """Write the whole table if the journal does not lead there."""
        if not self._stale:
            return
        try:
            _write(self._path, self.table)
            self._journal.unlink(missing_ok=True)
        except OSError as error:
            log.error("cannot write", file=str(self._path), error=str(error))
        else:
            self._stale, self._journal_bytes = False, 0


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []


def _load(path: Path, empty: M) -> M:
    try:
        return type(empty).model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return empty
    except ValidationError:
        log.exception("a stored file is damaged; waiting for the API server's word", file=str(path))
        return empty


def _write(path: Path, value: Model) -> None:
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(value.model_dump_json(by_alias=True).encode())
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
