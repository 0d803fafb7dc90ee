"""How long a buyer's readings wait: its wish, within the patience of the provider."""

import sys
from typing import Any

import pytest

from crds.models.dataroute import DataRoute
from crds.models.fluidos import Contract
from crds.models.retention import Retention, bounded
from router_manager.domain.partition import Partition
from router_manager.domain.routes import route_of
from router_manager.domain.table import route_of_node
from router_manager.settings import RouterSettings
from tests.router_manager import samples

DROP = Retention(when_full="DropOldest")
MINUTE, HOUR = Retention(max_age_seconds=60), Retention(max_age_seconds=3600)


@pytest.mark.parametrize(
    ("wish", "patience", "got"),
    [
        (None, None, None),
        (None, HOUR, HOUR),
        (MINUTE, None, MINUTE),
        (MINUTE, HOUR, MINUTE),
        (HOUR, MINUTE, MINUTE),
        (DROP, HOUR, Retention(when_full="DropOldest", max_age_seconds=3600)),
        (Retention(), DROP, DROP),
    ],
)
def test_a_buyer_gets_no_more_patience_than_its_provider_has(
    wish: Retention | None, patience: Retention | None, got: Retention | None
) -> None:
    assert bounded(wish, bounds=patience) == got


def test_the_wish_of_a_contract_is_in_its_route_and_at_the_relay() -> None:
    flavor = samples.flavor("f1", namespace="ns")
    asked: dict[str, Any] = {"retention": {"whenFull": "DropOldest"}}
    raw = samples.contract("c", namespace="ns", flavor=flavor, **asked)
    raw["metadata"]["uid"] = "u-1"
    made = route_of(Contract.parse(raw), insecure=True, patience=MINUTE)
    assert isinstance(made, DataRoute)
    assert made.spec.retention == Retention(when_full="DropOldest", max_age_seconds=60)


def test_a_relay_serves_the_devices_of_its_part() -> None:
    raw = samples.route("r", namespace="ns", source={"flavors": ["f1"]}, retention={"maxAgeSeconds": 60})
    raw["metadata"]["uid"] = "u-2"
    devices = [f"device-{number}" for number in range(8)]
    raw["status"] = {
        "sources": [
            {"flavor": f"f{number}", "device": device, "sensor": "s", "node": "edge-1", "topic": f"t/{number}"}
            for number, device in enumerate(devices)
        ]
    }
    parts = [route_of_node(DataRoute.parse(raw), node="edge-1", partition=Partition(index, 2)) for index in (0, 1)]
    served = [{one.device for one in part.sources} for part in parts if part is not None]
    assert served[0] | served[1] == set(devices)
    assert not served[0] & served[1]
    assert {part.retention for part in parts if part is not None} == {MINUTE}


@pytest.mark.parametrize(
    ("flags", "patience"),
    [
        ([], None),
        (["--buyers-wait-seconds", "60"], MINUTE),
        (["--buyers-drop-oldest"], DROP),
        (["--buyers-drop-oldest", "--buyers-wait-seconds", "60"], bounded(DROP, bounds=MINUTE)),
    ],
)
def test_patience_is_told_by_flags(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], patience: Retention | None
) -> None:
    monkeypatch.setattr(sys, "argv", ["router_manager", "--insecure", *flags])
    assert RouterSettings().patience == patience
