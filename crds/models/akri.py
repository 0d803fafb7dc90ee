"""Akri's Configuration and Instance, in the shape that Akri defines, with the field that its enhanced form adds.

`spec.firmwareJobSpec` (MECC 2024) is a JobSpec like `brokerSpec.brokerJobSpec`; the CRD of stock Akri prunes it, ours
keeps it. Neither kind has a status.
Source: project-akri/akri, deployment/helm/crds (0.13).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from crds.models.base import Column, Crd, Distinct, Model, Resource

GROUP = "akri.sh"
_FREE = {"x-kubernetes-preserve-unknown-fields": True}
FreeObject = Annotated[dict[str, Any], Field(json_schema_extra=_FREE)]
FreeOrNull = Annotated[dict[str, Any] | None, Field(json_schema_extra={**_FREE, "nullable": True})]
"""Akri's agents write null for what is not there."""
Properties = dict[str, str]


class DiscoveryHandler(Model):
    """Who finds the devices, and what it is told."""

    required: ClassVar[tuple[str, ...]] = ("name",)

    name: str = ""
    discovery_details: str | None = None
    discovery_properties: Annotated[tuple[FreeObject, ...] | None, Field(json_schema_extra={"nullable": True})] = None


class ConfigurationSpec(Model):
    """Which devices to find, and what to run for each."""

    discovery_handler: DiscoveryHandler | None = None
    capacity: int | None = None
    broker_spec: FreeOrNull = None
    broker_properties: Properties | None = None
    instance_service_spec: FreeOrNull = None
    configuration_service_spec: FreeOrNull = None
    firmware_job_spec: FreeOrNull = None
    """Run for each device when this is applied or changed, and for each new device."""


class Configuration(Resource):
    """A kind of devices."""

    crd: ClassVar[Crd] = Crd(
        group=GROUP,
        version="v0",
        kind="Configuration",
        plural="configurations",
        short_names=("akric",),
        categories=("all",),
        columns=(Column("Capacity", ".spec.capacity", "integer"), Column("Age", ".metadata.creationTimestamp", "date")),
        status_subresource=False,
    )

    spec: ConfigurationSpec


class InstanceSpec(Model):
    """A device that was found."""

    configuration_name: str = ""
    cdi_name: str | None = None
    capacity: int | None = None
    broker_properties: Properties | None = None
    """What its handler says of it; HTTP devices have HOST_ENDPOINT, DEVICE, APPLICATION_TYPE and VERSION."""
    shared: bool = False
    nodes: Annotated[tuple[str, ...], Distinct()] | None = None
    """That see it; each node's agent owns its own name."""
    device_usage: Properties | None = None


class Instance(Resource):
    """A device, for as long as it is seen; found again it has the same name and another UID."""

    crd: ClassVar[Crd] = Crd(
        group=GROUP,
        version="v0",
        kind="Instance",
        plural="instances",
        short_names=("akrii",),
        categories=("all",),
        columns=(
            Column("Config", ".spec.configurationName"),
            Column("Shared", ".spec.shared", "boolean"),
            Column("Nodes", ".spec.nodes"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        status_subresource=False,
    )

    spec: InstanceSpec
