"""What buyers get to know of a device that lost its trust, and of one whose flavor the API server refuses."""

from typing import Any

import orjson

from crds.kube.watch import Gone, Put
from crds.models.fluidos import Price
from edge_resource_manager.domain.buyers import May
from edge_resource_manager.gateway.events import Hub
from edge_resource_manager.gateway.store import Store
from tests.edge_resource_manager.gateway import samples

NAMESPACE = "n"
UEID = "01" + "ab" * 16
SPIFFE_ID = f"spiffe://p/device/{UEID}/app/wind"
LEAF = (NAMESPACE, "board")


def opened() -> Store:
    store = Store(Hub(), price=Price(amount="", currency="", period=""), may=lambda _, __: May.BUY)
    store.identity_seen(Put(("fluidos", "fluidos-node-identity"), samples.IDENTITY))
    return store


def leaf(trust: dict[str, Any], *conditions: tuple[str, str, str]) -> dict[str, Any]:
    obj = samples.leaf("board", namespace=NAMESPACE)
    obj["metadata"]["uid"] = "u1"
    obj["spec"]["ueid"] = UEID
    told = [
        {"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-11-21T12:00:00Z"}
        for kind, status, reason in conditions
    ]
    return {**obj, "status": {"trust": trust, "conditions": told}}


async def withdrawn(store: Store, *, before: dict[str, Any]) -> str:
    """The reason that subscribers hear when the Flavor of a LeafDevice goes."""
    flavor = samples.sensor("a", namespace=NAMESPACE)
    flavor["metadata"]["ownerReferences"] = [
        {"apiVersion": "edge.fluidos.eu/v1alpha1", "kind": "LeafDevice", "name": "board", "uid": "u1"}
    ]
    key = (NAMESPACE, flavor["metadata"]["name"])
    store.flavor_seen(Put(key, flavor))
    store.leaf_seen(Put(LEAF, before))
    reader = store._hub.subscribe(None)
    assert reader is not None
    store.flavor_seen(Gone(key))
    event = orjson.loads(await reader.take(timeout=1))
    assert event["type"] == "WITHDRAW"
    return str(event["reason"])


async def test_a_device_that_lost_its_trust_is_withdrawn_with_the_reason() -> None:
    lost = leaf({"tier": "None"}, ("Attested", "False", "MeasurementUnknown"))
    assert await withdrawn(opened(), before=lost) == "device is not trusted (MeasurementUnknown)"


async def test_a_flavor_that_goes_for_another_reason_is_not_said_to_be_distrusted() -> None:
    attested = leaf({"tier": "Attested", "spiffeID": SPIFFE_ID}, ("Attested", "True", "Attested"))
    vouched = leaf({"tier": "GatewayVouched"}, ("Attested", "False", "VouchedByGateway"))
    assert await withdrawn(opened(), before=attested) == "flavor is gone"
    assert await withdrawn(opened(), before=vouched) == "flavor is gone"


def stand_in(trust: dict[str, Any], *conditions: tuple[str, str, str]) -> dict[str, str] | None:
    """What is said of trust where a LeafDevice stands in for its Flavor; None where it does not."""
    store = opened()
    store.leaf_seen(Put(LEAF, leaf(trust, *conditions)))
    found = [listed.type_data["characteristics"] for listed in store.listed("sensor", viewer=None)]
    additional: dict[str, str] = found[0]["properties"]["additional"] if found else {}
    return additional if found else None


def test_only_what_the_api_server_refuses_is_offered_from_the_device_and_with_what_it_proved() -> None:
    attested = {"tier": "Attested", "spiffeID": SPIFFE_ID, "application": "wind"}
    refused = ("FlavorPublished", "False", "FlavorRefused")
    said = {"trustTier": "Attested", "spiffeID": SPIFFE_ID, "application": "wind"}
    assert stand_in(attested, refused) == said
    assert stand_in({**attested, "expirationTime": "2026-01-01T00:00:00Z"}, refused) == {"trustTier": "None"}
    assert stand_in({"tier": "None"}, ("FlavorPublished", "False", "MeasurementUnknown")) is None
    assert stand_in({"tier": "None"}, ("FlavorPublished", "Unknown", "NotAttested")) is None
