"""REAR's JSON to the kinds that it carries, and back, as far as each way is gone.

Source: fluidos-project/node, pkg/utils/resourceforge.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from crds.annotations import SIGNATURE
from crds.errors import InvalidField
from crds.models import fluidos
from crds.models.base import invalid_field
from crds.models.configuration import SensorConfiguration, parse_configuration
from crds.models.measured import Measured
from edge_resource_manager.domain import wire

_TO_CR: dict[wire.TypeName, fluidos.FlavorTypeIdentifier] = {
    "k8slice": "K8Slice",
    "vm": "VM",
    "service": "Service",
    "sensor": "Sensor",
}
_FROM_CR: dict[fluidos.FlavorTypeIdentifier, wire.TypeName] = {value: key for key, value in _TO_CR.items()}


def identity_to_wire(identity: fluidos.NodeIdentity) -> wire.NodeIdentity:
    """CR to wire."""
    extra = identity.additional_information
    return wire.NodeIdentity(
        id=identity.node_id,
        ip=identity.ip,
        domain=identity.domain,
        additional_information=wire.AdditionalInformation(liqo_id=extra.liqo_id) if extra else None,
    )


def identity_from_wire(identity: wire.NodeIdentity) -> fluidos.NodeIdentity:
    """Wire to CR."""
    extra = identity.additional_information
    return fluidos.NodeIdentity(
        node_id=identity.id,
        ip=identity.ip,
        domain=identity.domain,
        additional_information=fluidos.AdditionalInformation(liqo_id=extra.liqo_id) if extra else None,
    )


def flavor_to_wire(*, flavor_id: str, spec: fluidos.FlavorSpec, timestamp: str) -> wire.Flavor:
    """CR to wire.

    Args:
        flavor_id: the object's name.
        spec: of the object.
        timestamp: RFC 3339; when the offer was last known to be good.

    Raises:
        InvalidField: the object holds what the wire's bounds refuse; somebody else wrote it.
    """
    name = _FROM_CR[spec.flavor_type.type_identifier]
    place = spec.location
    try:
        return wire.Flavor(
            flavor_id=flavor_id,
            provider_id=spec.provider_id,
            type=wire.FlavorType(name=name, data=_data_to_wire(name, spec.flavor_type.type_data)),
            network_property_type=spec.network_property_type,
            timestamp=timestamp,
            location=wire.Location(**dict(place)) if place else None,
            price=wire.Price(**dict(spec.price)),
            owner=identity_to_wire(spec.owner),
            availability=spec.availability,
        )
    except ValidationError as error:
        raise invalid_field(error, field=flavor_id) from error


def flavor_from_wire(flavor: wire.Flavor) -> fluidos.FlavorSpec:
    """Wire to CR; its name is `flavor.flavor_id`."""
    place = flavor.location
    return fluidos.FlavorSpec(
        provider_id=flavor.provider_id,
        flavor_type=fluidos.FlavorType(
            type_identifier=_TO_CR[flavor.type.name], type_data=_data_from_wire(flavor.type.name, flavor.type.data)
        ),
        owner=identity_from_wire(flavor.owner),
        price=fluidos.Price(**dict(flavor.price)),
        availability=flavor.availability,
        network_property_type=flavor.network_property_type,
        location=fluidos.Location(**dict(place)) if place else None,
    )


def sensor_configuration(
    configuration: wire.Configuration | None, *, field: str = "configuration"
) -> SensorConfiguration:
    """The typed configuration of a request about a sensor.

    Raises:
        InvalidField: it is absent, of another type, or its data is wrong.
    """
    if configuration is None:
        raise InvalidField(field=field, value=None, expected="a configuration of type sensor, it is required")
    if configuration.type != "sensor":
        raise InvalidField(field=f"{field}.type", value=configuration.type, expected="sensor")
    return parse_configuration(configuration.data, field=f"{field}.data")


def configuration_to_wire(configuration: SensorConfiguration) -> wire.Configuration:
    """Typed to wire."""
    return wire.Configuration(type="sensor", data=configuration.dump())


def transaction_to_wire(transaction: fluidos.Transaction) -> wire.Transaction:
    """CR to wire."""
    spec = transaction.spec
    return wire.Transaction(
        transaction_id=transaction.metadata.name,
        flavor_id=spec.flavor_id,
        configuration=_configuration_from_cr(spec.configuration),
        buyer=identity_to_wire(spec.buyer),
        cluster_id=spec.cluster_id,
        expiration_time=spec.expiration_time or "",
    )


def contract_to_wire(contract: fluidos.Contract, *, measured: Measured | None = None) -> wire.Contract:
    """CR to wire, with what was measured where that is asked for."""
    spec = contract.spec
    telemetry = spec.ingress_telemetry_endpoint
    return wire.Contract(
        contract_id=contract.metadata.name,
        transaction_id=spec.transaction_id,
        flavor=flavor_to_wire(
            flavor_id=str(spec.flavor.metadata.get("name", "")),
            spec=spec.flavor.spec,
            timestamp=contract.metadata.creation_timestamp or "",
        ),
        buyer=identity_to_wire(spec.buyer),
        buyer_cluster_id=spec.buyer_cluster_id,
        seller=identity_to_wire(spec.seller),
        expiration_time=spec.expiration_time,
        configuration=_configuration_from_cr(spec.configuration),
        ingress_telemetry_endpoint=wire.TelemetryServer(endpoint=telemetry.endpoint, intents=telemetry.intents)
        if telemetry
        else None,
        signature=contract.metadata.annotations.get(SIGNATURE),
        measured=measured,
    )


def _configuration_from_cr(configuration: fluidos.Configuration | None) -> wire.Configuration | None:
    return wire.Configuration(type=_FROM_CR[configuration.type], data=configuration.data) if configuration else None


def _data_to_wire(name: wire.TypeName, data: dict[str, Any]) -> dict[str, Any]:
    """K8Slice's keys are spelt differently on the wire; the other types' are not."""
    if name != "k8slice":
        return data
    renamed = _renamed(data, "characteristics", "charateristics")
    if isinstance(properties := renamed.get("properties"), dict):
        renamed["properties"] = _renamed(properties, "carbon-footprint", "carbonFootprint")
    return renamed


def _data_from_wire(name: wire.TypeName, data: dict[str, Any]) -> dict[str, Any]:
    if name != "k8slice":
        return data
    renamed = _renamed(data, "charateristics", "characteristics")
    if isinstance(properties := renamed.get("properties"), dict):
        renamed["properties"] = _renamed(properties, "carbonFootprint", "carbon-footprint")
    return renamed


def _renamed(data: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if key == old else key: value for key, value in data.items()}
