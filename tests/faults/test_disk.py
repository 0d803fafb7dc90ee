"""The disk fills up under the relay, and rots."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.faults.site import SEED, judge, site, until

_SIZE = "48m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """48 MiB of memory, as a disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "none", str(disk)]
        subprocess.run(mount, check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here: {getattr(error, 'stderr', b'') or error}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True, capture_output=True, timeout=10)


def test_a_full_disk_holds_devices_up_and_loses_nothing_even_if_the_relay_dies(
    tmp_path: Path, small_disk: Path
) -> None:
    with site(tmp_path, size=2000, disk=small_disk, flags=("--spool-reserve-mebibytes", "0")) as running:
        fill(small_disk / "somebody-elses")
        until(running.relay.full, what="a relay that has no room")
        running.relay.kill()
        running.relay.start()
        until(running.relay.full, what="no room for its next life either")
        stuck = running.publisher.size
        (small_disk / "somebody-elses").unlink()
        until(lambda: running.publisher.size > stuck, what="an acknowledgement once there is room")
        running.moves()
        running.settle(faults=1)


def fill(path: Path) -> None:
    """All the room that the disk has."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            os.fsync(file.fileno())


def test_flipped_bits_cost_the_readings_that_they_are_in_and_are_reported(tmp_path: Path) -> None:
    random = Random(SEED)  # noqa: S311 - chooses bits, guards nothing
    with site(tmp_path) as running:
        running.sink.behave("500")
        until(lambda: len(running.publisher.owed().difference(running.sink.arrived())) > 2000, what="a backlog")
        owed = running.publisher.finish()
        running.relay.kill()
        (segment,) = (running.relay.state / "spool").glob("*.log")
        data = bytearray(segment.read_bytes())
        waiting = sorted(owed.difference(running.sink.arrived()))
        struck = set(random.sample(waiting[100:-100], 5))
        for number in struck:
            data[data.index(b'{"id":%d,' % number) + random.randrange(150)] ^= 1 << random.randrange(8)
        segment.write_bytes(data)
        running.sink.behave()
        running.relay.start()
        judge(owed - struck, running.sink, faults=1)
        assert struck.isdisjoint(running.sink.arrived())
        assert running.relay.metric("fluidos_edge_relay_spool_damage_total") == len(struck)
