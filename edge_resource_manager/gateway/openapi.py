"""The OpenAPI document of what is served; its schemas are those of the wire's models."""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from typing import Any

from pydantic.json_schema import models_json_schema

from crds.models.configuration import SensorConfiguration, without_kubernetes
from edge_resource_manager.domain import wire
from edge_resource_manager.domain.filters import DEFAULT_LIMIT, MAX_LIMIT, OPERATORS
from edge_resource_manager.domain.query import SENSOR_FIELDS
from edge_resource_manager.domain.stock_query import K8SLICE_FIELDS, SERVICE_FIELDS

Operation = dict[str, Any]

_MODELS = (
    wire.Flavor,
    wire.ReservationRequest,
    wire.Transaction,
    wire.PurchaseRequest,
    wire.Contract,
    wire.Configuration,
    wire.Problem,
    wire.Refresh,
    wire.Withdraw,
    wire.Heartbeat,
    SensorConfiguration,
)
_REFERENCE = "#/components/schemas/{model}"


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    _, definitions = models_json_schema([(model, "validation") for model in _MODELS], ref_template=_REFERENCE)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "REAR gateway of fluidos-edge",
            "version": "2",
            "description": "FLUIDOS' REAR as its nodes speak it, with sensors. Errors are RFC 9457 problems.",
        },
        "servers": [{"url": "/"}],
        "paths": _paths(),
        "components": {
            "schemas": without_kubernetes(definitions["$defs"]),
            "securitySchemes": {"spiffe": {"type": "mutualTLS", "description": "X.509-SVIDs of federated domains."}},
        },
        "security": [{"spiffe": []}],
    }


def _paths() -> dict[str, Any]:
    flavors = "/api/v2/flavors"
    list_all = _operation(
        "listFlavors",
        "All available K8Slice and Service flavors; sensors are never here.",
        ok=_array("Flavor"),
        errors=(403,),
    )
    list_all["responses"]["204"] = {"description": "there are none"}
    k8slices = _listing("K8Slice", K8SLICE_FIELDS)
    services = _listing("Service", SERVICE_FIELDS)
    sensors = _listing("Sensor", SENSOR_FIELDS)
    potential = {
        **sensors,
        "operationId": "listPotentialSensorFlavors",
        "summary": "What idle devices could be made into; repurposeSeconds says how long that takes.",
    }
    events = _operation(
        "streamSensorEvents",
        "Changes of sensor flavors, one JSON object a line: the first HEARTBEAT says that the stream stands.",
        ok={"oneOf": [_ref("Refresh"), _ref("Withdraw"), _ref("Heartbeat")]},
        media="application/x-ndjson",
        errors=(403,),
    )
    transaction = _parameter("transactionID")
    contract = _parameter("contractID")
    return {
        flavors: {"get": list_all},
        f"{flavors}/k8slice": {"get": k8slices},
        f"{flavors}/k8slices": {"get": _alias(k8slices)},
        f"{flavors}/service": {"get": services},
        f"{flavors}/services": {"get": _alias(services)},
        f"{flavors}/sensors": {"get": sensors},
        f"{flavors}/sensor": {"get": _alias(sensors)},
        f"{flavors}/sensors/events": {"get": events},
        f"{flavors}/sensors/potential": {"get": potential},
        f"{flavors}/sensors/{{flavorID}}": {
            "parameters": [_parameter("flavorID")],
            "get": _operation("getSensor", "One sensor flavor.", ok=_ref("Flavor"), errors=(403, 404)),
        },
        "/api/v2/reservations": {
            "post": _operation(
                "reserve",
                "Hold a place of a sensor flavor until expirationTime. Again for the same buyer, flavor and claim: "
                "the same transaction.",
                body="ReservationRequest",
                ok=_ref("Transaction"),
                errors=(400, 403, 404, 409, 413),
            )
        },
        "/api/v2/transactions/{transactionID}": {
            "parameters": [transaction],
            "delete": _operation("release", "Give a reservation back.", errors=(403, 404)),
        },
        "/api/v2/transactions/{transactionID}/purchase": {
            "parameters": [transaction],
            "post": _operation(
                "purchase",
                "Turn a reservation into a contract. Again: the same contract.",
                body="PurchaseRequest",
                ok=_ref("Contract"),
                errors=(400, 403, 404, 408, 409, 413),
            ),
        },
        "/api/v2/contracts/{contractID}": {
            "parameters": [contract],
            "get": _operation("getContract", "A contract in force.", ok=_ref("Contract"), errors=(403, 404)),
            "delete": _operation("endContract", "End a contract.", errors=(403, 404)),
        },
        "/api/v2/contracts/{contractID}/configuration": {
            "parameters": [contract],
            "put": _operation(
                "configure",
                "Change endpoints or filter of a contract, and renew it.",
                body="Configuration",
                ok=_ref("Contract"),
                errors=(400, 403, 404, 413),
            ),
        },
        "/api/v2/openapi.json": {"get": _operation("getOpenapi", "This document.", ok={"type": "object"})},
        "/api/v2/schemas/sensor-configuration.json": {
            "get": _operation(
                "getSensorConfigurationSchema",
                "JSON Schema of configuration.data for sensors.",
                ok={"type": "object"},
                media="application/schema+json",
            )
        },
    }


def _listing(kind: str, fields: tuple[str, ...]) -> Operation:
    operation = _operation(f"list{kind}Flavors", f"Available {kind} flavors.", ok=_array("Flavor"), errors=(400, 403))
    operation["parameters"] = [_filters(fields), _limit()]
    operation["responses"]["200"]["headers"] = {
        "Total-Count": {"description": "flavors that match, before the limit", "schema": {"type": "integer"}}
    }
    return operation


def _alias(operation: Operation) -> Operation:
    return {**operation, "operationId": f"{operation['operationId']}Alias", "deprecated": True}


def _filters(fields: tuple[str, ...]) -> dict[str, Any]:
    operators = ", ".join(OPERATORS)
    return {
        "name": "filter",
        "in": "query",
        "style": "deepObject",
        "explode": True,
        "description": f"filter[<field>]<operator>=<value>; all must hold. Operators: {operators}.",
        "schema": {
            "type": "object",
            "properties": {name: {"type": "object"} for name in fields},
            "additionalProperties": False,
        },
        "example": {fields[0]: {"match": "..."}},
    }


def _limit() -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
    return {"name": "limit", "in": "query", "schema": schema}


def _operation(
    name: str,
    summary: str,
    *,
    ok: dict[str, Any] | None = None,
    media: str = "application/json",
    body: str | None = None,
    errors: tuple[int, ...] = (),
) -> Operation:
    """Without `ok` the success is 204."""
    success = {"description": "done"} if ok is None else {"description": "OK", "content": {media: {"schema": ok}}}
    problem = {"application/problem+json": {"schema": _ref("Problem")}}
    operation: Operation = {
        "operationId": name,
        "summary": summary,
        "responses": {
            "204" if ok is None else "200": success,
            **{str(code): {"description": HTTPStatus(code).phrase, "content": problem} for code in (*errors, 503)},
        },
    }
    if body is not None:
        required = body != "PurchaseRequest"
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": _ref(body)}}}
    return operation


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _array(model: str) -> dict[str, Any]:
    return {"type": "array", "items": _ref(model)}


def _ref(model: str) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model)}
