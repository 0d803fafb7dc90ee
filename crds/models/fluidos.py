"""FLUIDOS' own kinds, in the shapes that its node and its edge fork define (v1alpha1): read and written exactly.

Source: fluidos-project/node, apis/{nodecore,reservation,network}/v1alpha1.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, WithJsonSchema

from crds.models.base import Column, Crd, Model, Resource

FLUIDOS_NAMESPACE = "fluidos"
IDENTITY_CONFIG_MAP = "fluidos-node-identity"

FlavorTypeIdentifier = Annotated[Literal["K8Slice", "VM", "Service", "Sensor"], WithJsonSchema({"type": "string"})]
FreeObject = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


class AdditionalInformation(Model):
    """Liqo's part of an identity."""

    liqo_id: Annotated[str | None, Field(alias="liqoID")] = None


class NodeIdentity(Model):
    """Who a FLUIDOS node is; `ip` is `host:port` of its REAR gateway."""

    domain: str
    node_id: Annotated[str, Field(alias="nodeID")]
    ip: str
    additional_information: AdditionalInformation | None = None


class FlavorType(Model):
    """The discriminator and its free data."""

    type_identifier: FlavorTypeIdentifier
    type_data: FreeObject


class Price(Model):
    """All strings; empty where nothing is asked."""

    amount: str
    currency: str
    period: str


class Location(Model):
    """Where the resource is, as strings."""

    latitude: str | None = None
    longitude: str | None = None
    country: str | None = None
    city: str | None = None
    additional_notes: str | None = None


class FlavorSpec(Model):
    """nodecore.fluidos.eu Flavor."""

    provider_id: Annotated[str, Field(alias="providerID")]
    flavor_type: FlavorType
    owner: NodeIdentity
    price: Price
    availability: bool
    network_property_type: str | None = None
    location: Location | None = None


class FlavorStatus(Model):
    """Declared by FLUIDOS, never written by its controllers, nor by us."""

    expiration_time: str
    creation_time: str
    last_update_time: str


class Flavor(Resource):
    """A resource that a FLUIDOS node offers (`kubectl get flavors`)."""

    crd: ClassVar[Crd] = Crd(
        group="nodecore.fluidos.eu",
        version="v1alpha1",
        kind="Flavor",
        plural="flavors",
        short_names=("fl",),
        columns=(
            Column("Provider ID", ".spec.providerID"),
            Column("Type", ".spec.flavorType.typeIdentifier"),
            Column("Owner Name", ".spec.owner.nodeID", priority=1),
            Column("Available", ".spec.availability", "boolean"),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Kubernetes Node Owner", ".metadata.ownerReferences[0].name"),
            # Not FLUIDOS' own: who the device of a Sensor flavor is.
            Column("SPIFFE ID", ".spec.flavorType.typeData.characteristics.properties.additional.spiffeID"),
        ),
    )

    spec: FlavorSpec
    status: FlavorStatus | None = None


_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
EmbeddedMetadata = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "namespace": {"type": "string"},
                "labels": _STRINGS,
                "annotations": _STRINGS,
                "finalizers": {"type": "array", "items": {"type": "string"}},
            },
        }
    ),
]


class Configuration(Model):
    """What a buyer asks beyond the flavor."""

    type: FlavorTypeIdentifier
    data: FreeObject


class LiqoCredentials(Model):
    """Required by the CRD; empty in contracts about sensors: no kubeconfig ever travels."""

    required: ClassVar[tuple[str, ...] | None] = ("kubeconfig", "liqoID")

    liqo_id: Annotated[str, Field(alias="liqoID")] = ""
    kubeconfig: str = ""


class TelemetryServer(Model):
    """Where the buyer wants telemetry: for sensors, its first endpoint."""

    endpoint: str
    intents: tuple[str, ...] | None = None


class PhaseStatus(Model):
    """FLUIDOS' phase."""

    phase: str
    message: str | None = None
    start_time: str | None = None
    last_change_time: str | None = None
    end_time: str | None = None


class TransactionSpec(Model):
    """reservation.fluidos.eu Transaction: a flavor held for a buyer until `expirationTime`."""

    flavor_id: Annotated[str, Field(alias="flavorID")]
    buyer: NodeIdentity
    cluster_id: Annotated[str, Field(alias="clusterID")]
    configuration: Configuration | None = None
    expiration_time: str | None = None


class PhaseOnlyStatus(Model):
    """Status of a contract and of a transaction."""

    phase: PhaseStatus


class Transaction(Resource):
    """A flavor that is held for a buyer (`kubectl get transactions`)."""

    crd: ClassVar[Crd] = Crd(
        group="reservation.fluidos.eu",
        version="v1alpha1",
        kind="Transaction",
        plural="transactions",
        short_names=("tr",),
        columns=(
            Column("Flavor ID", ".spec.flavorID"),
            Column("Buyer Name", ".spec.buyer.nodeID"),
            Column("Buyer IP", ".spec.buyer.ip", priority=1),
            Column("Buyer Domain", ".spec.buyer.domain", priority=1),
            Column("Cluster ID", ".spec.clusterID"),
            Column("Start Time", ".spec.startTime"),
        ),
    )

    spec: TransactionSpec
    status: PhaseOnlyStatus | None = None


class EmbeddedFlavor(Model):
    """A whole Flavor inside a Contract. The API server keeps of its metadata what the schema names: no uid."""

    required: ClassVar[tuple[str, ...] | None] = ()

    api_version: str = "nodecore.fluidos.eu/v1alpha1"
    kind: str = "Flavor"
    metadata: EmbeddedMetadata
    spec: FlavorSpec
    status: FlavorStatus | None = None


class ContractSpec(Model):
    """reservation.fluidos.eu Contract."""

    required: ClassVar[tuple[str, ...] | None] = (
        "buyer",
        "buyerClusterID",
        "flavor",
        "peeringTargetCredentials",
        "seller",
        "transactionID",
    )

    flavor: EmbeddedFlavor
    transaction_id: Annotated[str, Field(alias="transactionID")]
    configuration: Configuration | None = None
    buyer: NodeIdentity
    buyer_cluster_id: Annotated[str, Field(alias="buyerClusterID")]
    seller: NodeIdentity
    peering_target_credentials: LiqoCredentials = LiqoCredentials()
    expiration_time: str | None = None
    extra_information: dict[str, str] | None = None
    network_requests: str | None = None
    ingress_telemetry_endpoint: TelemetryServer | None = None


class Contract(Resource):
    """A flavor that was sold (`kubectl get contracts`)."""

    crd: ClassVar[Crd] = Crd(
        group="reservation.fluidos.eu",
        version="v1alpha1",
        kind="Contract",
        plural="contracts",
        short_names=("contr",),
        columns=(
            Column("Flavor ID", ".spec.flavor.metadata.name"),
            Column("Buyer Name", ".spec.buyer.nodeID"),
            Column("Buyer Domain", ".spec.buyer.domain", priority=1),
            Column("Seller Name", ".spec.seller.nodeID"),
            Column("Seller Domain", ".spec.seller.domain", priority=1),
            Column("Transaction ID", ".spec.transactionID", priority=1),
            Column("Buyer Liqo ID", ".spec.buyerClusterID", priority=1),
            Column("Expiration Time", ".spec.expirationTime", priority=1),
        ),
    )

    spec: ContractSpec
    status: PhaseOnlyStatus | None = None


class KnownClusterSpec(Model):
    """network.fluidos.eu KnownCluster: where another cluster's REAR gateway is, `host:port`."""

    address: str


class KnownClusterStatus(Model):
    """Of clusters found by LAN multicast; one made by hand has none and lives until it is deleted."""

    expiration_time: str
    last_update_time: str


class KnownCluster(Resource):
    """Another FLUIDOS node (`kubectl get knownclusters`)."""

    crd: ClassVar[Crd] = Crd(
        group="network.fluidos.eu",
        version="v1alpha1",
        kind="KnownCluster",
        plural="knownclusters",
        short_names=("kclust", "kclusts"),
    )

    spec: KnownClusterSpec
    status: KnownClusterStatus | None = None
