"""LeafDevice to Flavor: one projection for each sensor, the same wherever it is made.

The manager publishes it as an object; where a stock FLUIDOS webhook refuses Sensor flavors, the REAR gateway offers it
straight from the LeafDevice.
"""

from __future__ import annotations

from dataclasses import dataclass

from crds.errors import InvalidField
from crds.models.base import ObjectMeta
from crds.models.flash_report import FLASHING
from crds.models.fluidos import Flavor, FlavorSpec, FlavorType, Location, NodeIdentity, Price
from crds.models.leafdevice import LeafDevice, Sensor
from crds.naming import flavor_name
from crds.typedata import FlavorTrust, characteristics
from edge_resource_manager.reasons import LeafCondition

FREE = Price(amount="", currency="", period="")
"""What the fork says where no price is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a provider says with every sensor that it offers."""

    identity: NodeIdentity
    price: Price = FREE
    location: Location | None = None
    network_property_type: str | None = None


def flavor_of(
    leaf: LeafDevice, sensor: Sensor, *, terms: Terms, available: bool, trust: FlavorTrust | None = None
) -> Flavor:
    """The Flavor of one sensor of a stored LeafDevice, in whose namespace it lives and by which it is owned.

    `trust` is what is said of the device, once domain.publication has decided that it may be offered.

    Raises:
        InvalidField: the LeafDevice has no namespace or uid: the API server has not stored it.
    """
    namespace = leaf.metadata.namespace
    if namespace is None:
        raise InvalidField(field="metadata.namespace", value=None, expected="the namespace of the LeafDevice")
    described = characteristics(sensor, node=leaf.spec.node_name, board=leaf.spec.board, trust=trust)
    return Flavor(
        metadata=ObjectMeta(
            name=flavor_name(
                domain=terms.identity.domain,
                leaf_namespace=namespace,
                leaf_name=leaf.metadata.name,
                sensor_uid=sensor.uid,
            ),
            namespace=namespace,
            owner_references=(leaf.owner_reference(),),
        ),
        spec=FlavorSpec(
            provider_id=terms.identity.node_id,
            flavor_type=FlavorType(
                type_identifier="Sensor",
                type_data={"characteristics": described},
            ),
            owner=terms.identity,
            price=terms.price,
            availability=available,
            network_property_type=terms.network_property_type,
            location=terms.location,
        ),
    )


def is_available(leaf: LeafDevice) -> bool:
    """Whether a LeafDevice's sensors can be bought, by what its status says."""
    conditions = leaf.status.conditions if leaf.status else ()
    unavailable = {(LeafCondition.ONLINE, "False"), (FLASHING, "True")}
    return not any((each.type, each.status) in unavailable for each in conditions)
