"""What sensors need beyond REAR, in REAR's own `configuration: {type: sensor, data: ...}`.

The model is the truth; `docs/schemas/sensor-configuration.schema.json` is generated from it, checked in, and served by
every gateway, so that a buyer of another make knows what to send.
"""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import Field

from crds.models.base import Label, Model, Name, validate
from crds.models.dataroute import Delivery
from crds.models.delivery import Endpoints, PayloadFilter
from crds.models.repurposing import Repurpose
from crds.models.retention import Retention
from crds.predicate import compile_predicate
from crds.units import parse_unit

SCHEMA_ID = "https://edge.fluidos.eu/schemas/sensor-configuration.json"
MAX_CONFIGURATION_BYTES = 64 * 1024


class ClaimReference(Model):
    """For whom the flavor is asked. The uid tells two claims on the same flavor apart, and a retry from a new wish."""

    name: Name
    namespace: Label
    uid: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")]


class SensorConfiguration(Model):
    """How the readings of a flavor are delivered. Keys that are not named here are ignored."""

    claim: ClaimReference
    endpoints: Endpoints
    filter: PayloadFilter | None = None
    delivery: Delivery = "AtLeastOnce"
    retention: Retention | None = None
    repurpose: Repurpose | None = None
    """Without it, nothing is made into what is wanted."""


def parse_configuration(data: object, *, field: str = "configuration.data") -> SensorConfiguration:
    """Read the `data` of a configuration, as sent by anybody.

    Args:
        data: as a JSON parser gives it.
        field: where it stands, for errors.

    Raises:
        InvalidField: names the first field that is wrong, its value and what was expected.
    """
    configuration = validate(SensorConfiguration, data, field=field)
    if configuration.filter and configuration.filter.expression:
        compile_predicate(configuration.filter.expression, field=f"{field}.filter.expression")
    for index, endpoint in enumerate(configuration.endpoints):
        for change in (endpoint.shape and endpoint.shape.convert) or ():
            for symbol in filter(None, (change.source, change.to)):
                parse_unit(symbol, field=f"{field}.endpoints[{index}].shape.convert")
    return configuration


def json_schema() -> dict[str, Any]:
    """The published JSON Schema (2020-12) of `data`."""
    schema = without_kubernetes(SensorConfiguration.model_json_schema(by_alias=True, mode="validation"))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **schema}


def json_schema_text() -> str:
    """The schema as it is checked in and served."""
    return orjson.dumps(json_schema(), option=orjson.OPT_INDENT_2).decode() + "\n"


def without_kubernetes(node: Any) -> Any:
    """A schema without the `x-kubernetes-*` marks, which mean something to CRDs only."""
    if isinstance(node, dict):
        return {key: without_kubernetes(value) for key, value in node.items() if not key.startswith("x-kubernetes-")}
    return [without_kubernetes(value) for value in node] if isinstance(node, list) else node
