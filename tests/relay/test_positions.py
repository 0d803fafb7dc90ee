"""Position files: whole after any interruption."""

from pathlib import Path

import pytest

from router_manager.domain.table import LaneKey
from router_manager.relay.positions import Positions

KEY = LaneKey("3f6c/../x", "target,1")


def test_a_lane_without_a_file_has_no_position(tmp_path: Path) -> None:
    assert Positions(tmp_path).file(KEY).read() is None


def test_the_last_write_is_what_is_read(tmp_path: Path) -> None:
    file = Positions(tmp_path).file(KEY)
    for position in (1, 2, 3):
        file.write(position)
        assert Positions(tmp_path).file(KEY).read() == position


@pytest.mark.parametrize("writes", [1, 2, 3, 4])
def test_an_interrupted_write_leaves_the_one_before(tmp_path: Path, writes: int) -> None:
    file = Positions(tmp_path).file(KEY)
    for position in range(1, writes + 1):
        file.write(position)
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    file.write(writes + 1)
    after = path.read_bytes()
    changed = [at for at in range(len(after)) if at >= len(before) or before[at] != after[at]]
    for cut in range(changed[0], changed[-1]):
        path.write_bytes(after[: cut + 1] + before[cut + 1 :])
        assert Positions(tmp_path).file(KEY).read() in (writes, writes + 1)


def test_writing_goes_on_after_a_restart_in_the_other_slot(tmp_path: Path) -> None:
    for position in range(1, 6):
        file = Positions(tmp_path).file(KEY)
        file.read()
        file.write(position)
        (path,) = tmp_path.iterdir()
        assert path.read_text().count(f"{position - 1:020d}") == 1 or position == 1


def test_a_damaged_file_means_all_that_the_spool_has(tmp_path: Path) -> None:
    file = Positions(tmp_path).file(KEY)
    file.write(7)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"nonsense")
    assert Positions(tmp_path).file(KEY).read() == 0


def test_names_of_routes_and_targets_stay_in_their_folder(tmp_path: Path) -> None:
    positions = Positions(tmp_path / "positions")
    positions.file(KEY).write(1)
    assert positions.keys() == {KEY}
    assert [path.parent for path in tmp_path.rglob("*.position")] == [tmp_path / "positions"]
    positions.file(KEY).delete()
    assert positions.keys() == set()
