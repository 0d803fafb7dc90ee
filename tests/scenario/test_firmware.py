"""Firmware on a claim, by hand and on others' orders: each process under its own account, with no right too many."""

from __future__ import annotations

import pytest

from tests.scenario.audit import granted, requests
from tests.scenario.firmware import adopt, cancel, change_ones_mind, give_up, keep_no_history, of_firmware, workshop
from tests.scenario.world import World


@pytest.mark.timeout(600)
def test_who_flashes_needs_every_right_that_he_has_and_no_other(world: World) -> None:
    log = world.provider.cluster.audit_log
    assert log is not None
    size = log.stat().st_size
    with workshop(world) as act:
        assert act.repurpose().after == "visibility"
        halted = act.fail()
        assert (halted.state, halted.untouched) == ("RolledBack", halted.others)
        give_up(world)
        keep_no_history(world)
        cancel(world)
        change_ones_mind(world)
        adopt(world)
    refused = {f"{each.account}: {each.verb} {each.uri}" for each in requests(log, start=size) if each.status == 403}
    assert not refused, "\n".join(["missing rights:", *refused])
    made = list(requests(log))
    unused = [str(right) for right in granted() if of_firmware(right) and not any(each.uses(right) for each in made)]
    assert not unused, "\n".join(["rights that nobody used:", *unused])
