"""Who meets at a gateway with identities: a seller, two buyers, a stranger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spire.identity import FixedIdentity
from tests.edge_resource_manager.gateway import samples
from tests.spire.pki import Ca

if TYPE_CHECKING:  # whose fixtures are made of what is here
    from tests.edge_resource_manager.gateway.conftest import Provider

SELLER, ONE, TWO, STRANGER = Ca.of("provider"), Ca.of("consumer-1"), Ca.of("consumer-2"), Ca.of("stranger")
CONFIGURATION = samples.configuration(url=samples.SECURE_TARGET)
GATEWAY, BUYER = "/manager/rear-gateway", "/manager/edge-resource-manager"


def buyer(authority: Ca, path: str = BUYER) -> FixedIdentity:
    return FixedIdentity(authority.identity(path, knows=(SELLER,)))


async def bought(provider: Provider, flavor: str, **changed: Any) -> dict[str, Any]:
    reserved = await provider.reserve(flavor, **changed)
    assert reserved.status == 200, reserved.json
    answer = await provider.purchase(reserved.json["transactionID"])
    assert answer.status == 200, answer.json
    contract: dict[str, Any] = answer.json
    return contract


def annotations_of(provider: Provider, plural: str, namespace: str) -> list[dict[str, str]]:
    return [each["metadata"].get("annotations", {}) for each in provider.objects(plural, namespace)]
