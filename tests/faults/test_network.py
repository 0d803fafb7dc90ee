"""The network between relay and target goes away without a word."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.network import THERE, Network, network
from tests.faults.site import CUT_SECONDS, site


@pytest.fixture
def wire() -> Iterator[Network]:
    try:
        with network() as made:
            yield made
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', b'') or error}")


def test_a_network_that_drops_everything_delays_and_loses_nothing(tmp_path: Path, wire: Network) -> None:
    with site(tmp_path, host=THERE, here=wire.here, there=wire.there, flags=("--egress-allow", f"{THERE}/32")) as flow:
        acknowledged = flow.publisher.size
        wire.cut()
        time.sleep(CUT_SECONDS)  # how long it is away is what is tested
        assert flow.publisher.size > acknowledged, "devices are acknowledged meanwhile"
        arrived = flow.sink.size
        wire.mend()
        flow.settle(faults=1)
        assert flow.sink.size > arrived
