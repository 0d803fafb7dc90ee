"""What the agent says of devices that cannot prove themselves, and whom it asks to."""

from __future__ import annotations

from datetime import timedelta

import pytest

from crds.models.leafdevice import LeafDevice
from edge_resource_manager.agent.domain.trust import needs_reminder, voucher
from tests.edge_resource_manager.agent.leaves import AGENT, NOW, leaf, trust
from tests.edge_resource_manager.agent.peers import UEID


def written(device: LeafDevice) -> LeafDevice:
    """The device after the agent had its say."""
    status = voucher(device, by=AGENT, now=NOW)
    return device if status is None else device.model_copy(update={"status": status})


def test_it_speaks_for_a_device_without_a_ueid_and_says_so_once() -> None:
    device = written(leaf("a", "sensor/a"))
    assert device.status is not None
    assert device.status.trust == trust("GatewayVouched")
    assert [(each.type, each.status, each.reason) for each in device.status.conditions] == [
        ("Attested", "False", "VouchedByGateway")
    ]
    assert voucher(device, by=AGENT, now=NOW + timedelta(days=1)) is None


def test_it_says_nothing_of_a_device_that_can_prove_itself() -> None:
    assert voucher(leaf("a", ueid=UEID), by=AGENT, now=NOW) is None
    assert voucher(leaf("a", ueid=UEID, believed=trust()), by=AGENT, now=NOW) is None


def test_it_takes_its_word_back_when_a_device_gets_a_ueid() -> None:
    status = voucher(leaf("a", ueid=UEID, believed=trust("GatewayVouched")), by=AGENT, now=NOW)
    assert status is not None
    assert (status.trust, status.conditions) == (None, ())


def test_it_takes_over_a_device_that_another_agent_spoke_for() -> None:
    other = trust("GatewayVouched").model_copy(update={"vouched_by": "spiffe://provider.test/agent/edge-2"})
    status = voucher(leaf("a", believed=other), by=AGENT, now=NOW)
    assert status is not None
    assert status.trust == trust("GatewayVouched")


@pytest.mark.parametrize(("minutes", "needed"), [(60, False), (6, False), (4, True), (-1, True)])
def test_a_device_is_asked_shortly_before_its_trust_ends(minutes: float, needed: bool) -> None:
    assert needs_reminder(leaf("a", ueid=UEID, believed=trust(minutes=minutes)), now=NOW) is needed


def test_a_device_that_never_attested_is_asked_and_one_that_cannot_is_not() -> None:
    assert needs_reminder(leaf("a", ueid=UEID), now=NOW)
    assert not needs_reminder(leaf("a"), now=NOW)
