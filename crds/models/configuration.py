"""What a buyer of a sensor asks beyond REAR: the `data` of REAR's `configuration` of type `sensor`.

Published as `docs/schemas/sensor-configuration.schema.json`. The buyer's gateway client writes it, the seller's gateway
checks it, the seller's router_manager makes a DataRoute of it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from crds.models.base import Model, Name, validate
from crds.models.delivery import Endpoints, PayloadFilter


class ClaimReference(Model):
    """The buyer's claim: `uid` makes retries idempotent, the names are for people."""

    name: Name
    namespace: Name
    uid: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._-]+$")]


class SensorConfiguration(Model):
    """Where the readings shall go, and which of them. Keys of FLUIDOS' fork beside these are ignored."""

    claim: ClaimReference
    endpoints: Endpoints
    filter: PayloadFilter | None = None
    delivery: Literal["AtLeastOnce"] = "AtLeastOnce"


def parse_configuration(data: dict[str, Any], *, field: str = "configuration.data") -> SensorConfiguration:
    """From hostile JSON.

    Raises:
        crds.errors.InvalidField: names the first field that is wrong.
    """
    return validate(SensorConfiguration, data, field=field)


def configuration_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of `configuration.data`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "FLUIDOS edge sensor configuration",
        **SensorConfiguration.model_json_schema(by_alias=True),
    }
