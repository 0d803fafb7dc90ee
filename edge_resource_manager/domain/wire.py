"""REAR's JSON: what travels between clusters.

The wire is not the CR: `flavorID`, `type: {name, data}`, an identity of `ID` and `IP`, the country under `altitude`,
and K8Slice's `charateristics` are what fielded FLUIDOS nodes send and expect, so they are kept as they are. Whatever is
read here comes from strangers: every string is bounded, and a parser raises InvalidField or nothing.
Use it as a module (`wire.Flavor`, `wire.Contract`): the kinds of the same names live in crds.models.fluidos, and
`conversion` leads from one to the other.
Source: fluidos-project/node, pkg/utils/models; errors by RFC 9457.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, Field

from crds.errors import InvalidField
from crds.models.base import Model, Timestamp, validate
from crds.models.measured import Measured

MAX_BODY_BYTES = 256 * 1024

Id = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[!-~]+$")]
"""Names of objects and of nodes: printable, no spaces."""

Text = Annotated[str, Field(max_length=1024)]
TypeName = Literal["k8slice", "vm", "service", "sensor"]


class AdditionalInformation(Model):
    """Liqo's part. A kubeconfig that a stock node sends here is never read, and none is ever sent."""

    liqo_id: Annotated[Text | None, Field(alias="liqoID")] = None


class NodeIdentity(Model):
    """Who a node says that it is."""

    id: Annotated[Id, Field(alias="ID")]
    ip: Annotated[str, Field(alias="IP", max_length=261)]
    domain: Annotated[str, Field(max_length=253)]
    additional_information: AdditionalInformation | None = None


class FlavorType(Model):
    """The discriminator and its free data."""

    name: TypeName
    data: dict[str, Any]


class Location(Model):
    """Where the resource is. FLUIDOS sends the country under `altitude`."""

    latitude: Text | None = None
    longitude: Text | None = None
    country: Annotated[Text | None, Field(alias="altitude")] = None
    city: Text | None = None
    additional_notes: Text | None = None


class Price(Model):
    """All strings, empty where nothing is asked."""

    amount: Text
    currency: Text
    period: Text


class Flavor(Model):
    """One offer. `timestamp` says how fresh it is."""

    flavor_id: Annotated[Id, Field(alias="flavorID")]
    provider_id: Annotated[Id, Field(alias="providerID")]
    type: FlavorType
    network_property_type: Text | None = None
    timestamp: Timestamp
    location: Location | None = None
    price: Price
    owner: NodeIdentity
    availability: bool


class Configuration(Model):
    """What a buyer asks beyond the flavor."""

    type: TypeName
    data: dict[str, Any]


class ReservationRequest(Model):
    """POST /reservations."""

    flavor_id: Annotated[Id, Field(alias="flavorID")]
    buyer: Annotated[NodeIdentity, Field(alias="buyerID")]
    configuration: Configuration | None = None


class Transaction(Model):
    """A flavor held for a buyer until `expirationTime`."""

    transaction_id: Annotated[Id, Field(alias="transactionID")]
    flavor_id: Annotated[Id, Field(alias="flavorID")]
    configuration: Configuration | None = None
    buyer: NodeIdentity
    cluster_id: Annotated[Text, Field(alias="clusterID")]
    expiration_time: Timestamp


class TelemetryServer(Model):
    """Where the buyer wants telemetry: of a sensor, the first endpoint."""

    endpoint: Annotated[str, Field(max_length=2048)]
    intents: Annotated[tuple[Text, ...], Field(max_length=64)] | None = None


class PurchaseRequest(Model):
    """POST /transactions/{transactionID}/purchase."""

    ingress_telemetry_endpoint: TelemetryServer | None = None


class LiqoCredentials(Model):
    """Empty for sensors: no kubeconfig ever travels."""

    cluster_id: Annotated[Text, Field(alias="clusterID")] = ""
    kubeconfig: Annotated[str, Field(max_length=65536)] = ""


class Contract(Model):
    """What was bought."""

    contract_id: Annotated[Id, Field(alias="contractID")]
    transaction_id: Annotated[Id, Field(alias="transactionID")]
    flavor: Flavor
    buyer: Annotated[NodeIdentity, Field(alias="buyerID")]
    buyer_cluster_id: Annotated[Text, Field(alias="buyerClusterID")]
    seller: NodeIdentity
    peering_target_credentials: LiqoCredentials = LiqoCredentials()
    expiration_time: Timestamp | None = None
    configuration: Configuration | None = None
    ingress_telemetry_endpoint: TelemetryServer | None = None
    signature: Annotated[str, Field(max_length=65536)] | None = None
    """Ours: the seller's, a JWS with detached content; see `signature.py`."""
    measured: Measured | None = None
    """Ours, in answers to GET alone: no part of what is agreed and signed."""


class Problem(Model):
    """application/problem+json; the last three are ours and name what is wrong in a body or a query."""

    type: str = "about:blank"
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    field: str | None = None
    value: str | None = None
    expected: str | None = None


class Refresh(Model):
    """A flavor appeared or changed."""

    type: Literal["REFRESH"] = "REFRESH"
    flavor: Flavor


class Withdraw(Model):
    """A flavor is gone or unavailable."""

    type: Literal["WITHDRAW"] = "WITHDRAW"
    flavor_id: Annotated[Id, Field(alias="flavorID")]
    reason: Text = ""


class Heartbeat(Model):
    """The provider is there."""

    type: Literal["HEARTBEAT"] = "HEARTBEAT"


Event = Refresh | Withdraw | Heartbeat
_EVENTS: dict[str, type[Refresh] | type[Withdraw] | type[Heartbeat]] = {
    "REFRESH": Refresh,
    "WITHDRAW": Withdraw,
    "HEARTBEAT": Heartbeat,
}

W = TypeVar("W", bound=BaseModel)


def loads(body: bytes, *, field: str = "(body)") -> Any:
    """JSON as RFC 8259 has it: UTF-8, no NaN. The caller bounds its size.

    Raises:
        InvalidField: it is not.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidField(field=field, value=body[:64], expected=f"JSON in UTF-8 ({error})") from error


def parse(model: type[W], body: bytes) -> W:
    """Read a body as a model of this module.

    Raises:
        InvalidField: names the first field that is wrong, its value and what was expected.
    """
    return validate(model, loads(body))


def parse_flavors(body: bytes) -> tuple[tuple[Flavor, ...], tuple[InvalidField, ...]]:
    """Read a list of flavors; one bad entry hides none of the others.

    Raises:
        InvalidField: the body is no JSON array.
    """
    entries = loads(body)
    if not isinstance(entries, list):
        raise InvalidField(field="(body)", value=type(entries).__name__, expected="a JSON array of flavors")
    flavors: list[Flavor] = []
    errors: list[InvalidField] = []
    for index, entry in enumerate(entries):
        try:
            flavors.append(validate(Flavor, entry, field=f"[{index}]"))
        except InvalidField as error:
            errors.append(error)
    return tuple(flavors), tuple(errors)


def parse_event(line: bytes) -> Event | None:
    """Read one line of the event stream; None for a type that a newer provider may send.

    Raises:
        InvalidField: the line is no event.
    """
    obj = loads(line, field="(line)")
    kind = obj.get("type") if isinstance(obj, dict) else None
    if not isinstance(kind, str):
        raise InvalidField(field="type", value=obj, expected=f"one of {', '.join(_EVENTS)}")
    model = _EVENTS.get(kind)
    return None if model is None else validate(model, obj)
