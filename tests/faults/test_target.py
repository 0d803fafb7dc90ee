"""A target that misbehaves gets everything in the end, in order, and delays no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.site import Site, moments, site, until


@pytest.mark.parametrize("mode", ["500", "hang", "cut", "slow"])
def test_a_target_that_misbehaves_for_a_while_is_owed_all_of_it(tmp_path: Path, mode: str) -> None:
    with site(tmp_path) as running:
        for _ in moments(mode):
            misbehave(running, mode)
        running.settle(faults=0)


def misbehave(running: Site, mode: str) -> None:
    """Until the relay has met it twice at least."""
    sink, relay = running.sink, running.relay
    retried = "fluidos_edge_relay_retried_total"
    before, unanswered = relay.metric(retried), sink.unanswered()
    sink.behave(mode)
    if mode == "slow":
        running.moves()
        running.moves(what="a second slow answer")
    else:
        until(lambda: relay.metric(retried) >= before + 2, what=f"two tries in spite of {mode}")
        assert mode == "500" or sink.unanswered() >= unanswered + 2
    sink.behave()
    running.moves(what=f"a delivery after {mode}")
