"""KubeEdge's device kinds in the shapes that KubeEdge defines, v1beta1 and v1alpha2: read, never written by a manager.

Everything is optional, as it is in KubeEdge's CRDs, and what later releases add is ignored. The two versions have no
conversion: a cluster that serves both hands out the stored form under either name.
Source: kubeedge/kubeedge, build/crds/devices (v1beta1: 1.23, v1alpha2: 1.14).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from crds.models.base import Crd, Model, Resource
from crds.models.fluidos import FreeObject

GROUP = "devices.kubeedge.io"
AccessMode = Literal["ReadWrite", "ReadOnly"]
Metadata = dict[str, str]
Int32 = Annotated[int, Field(json_schema_extra={"format": "int32"})]


class ModelRef(Model):
    """A DeviceModel of the same namespace."""

    name: str = ""


class Value(Model):
    """A twin's value: always a string."""

    value: str
    metadata: Metadata | None = None


class Visitor(Model):
    """How a mapper reaches one property: free configuration by protocol."""

    protocol_name: str | None = None
    config_data: FreeObject | None = None


class HttpPush(Model):
    """Push to HTTP."""

    host_name: str | None = None
    port: int | None = None
    request_path: str | None = None
    timeout: int | None = None


class MqttPush(Model):
    """Push to MQTT."""

    address: str | None = None
    topic: str | None = None
    qos: Int32 | None = None
    retained: bool | None = None


class OtelPush(Model):
    """Push to OpenTelemetry."""

    endpoint_url: Annotated[str | None, Field(alias="endpointURL")] = None


class InfluxClient(Model):
    """Where InfluxDB is."""

    url: str | None = None
    org: str | None = None
    bucket: str | None = None


class InfluxData(Model):
    """What is written to InfluxDB."""

    measurement: str | None = None
    tag: dict[str, str] | None = None
    field_key: str | None = None


class Influx(Model):
    """InfluxDB 2."""

    influxdb2_client_config: InfluxClient | None = None
    influxdb2_data_config: InfluxData | None = None


class RedisClient(Model):
    """Where Redis is."""

    addr: str | None = None
    db: int | None = None
    poolsize: int | None = None
    min_idle_conns: int | None = None


class Redis(Model):
    """Redis."""

    redis_client_config: RedisClient | None = None


class TdEngineClient(Model):
    """Where TDengine is."""

    addr: str | None = None
    db_name: str | None = None


class TdEngine(Model):
    """TDengine."""

    client_config: Annotated[TdEngineClient | None, Field(alias="TDEngineClientConfig")] = None


class MySqlClient(Model):
    """Where MySQL is."""

    addr: str | None = None
    database: str | None = None
    user_name: str | None = None


class MySql(Model):
    """MySQL."""

    mysql_client_config: MySqlClient | None = None


class DbPush(Model):
    """Push to a database."""

    influxdb2: Influx | None = None
    redis: Redis | None = None
    td_engine: Annotated[TdEngine | None, Field(alias="TDEngine")] = None
    mysql: MySql | None = None


class PushMethod(Model):
    """Where a mapper sends readings."""

    http: HttpPush | None = None
    mqtt: MqttPush | None = None
    otel: OtelPush | None = None
    db_method: DbPush | None = None
    anomaly_detection: FreeObject | None = None


class DeviceProperty(Model):
    """One property of a device. Cycles are milliseconds."""

    name: str | None = None
    desired: Value | None = None
    visitors: Visitor | None = None
    report_cycle: int | None = None
    collect_cycle: int | None = None
    report_to_cloud: bool | None = None
    push_method: PushMethod | None = None


class DeviceMethod(Model):
    """Properties that are called together."""

    name: str | None = None
    description: str | None = None
    property_names: tuple[str, ...] | None = None


class StateReport(Model):
    """Whether the device's state is reported, and how often."""

    report_to_cloud: bool | None = None
    report_cycle: int | None = None


class DeviceSpec(Model):
    """A device on one node."""

    device_model_ref: ModelRef | None = None
    node_name: str | None = None
    properties: tuple[DeviceProperty, ...] | None = None
    protocol: Visitor | None = None
    methods: tuple[DeviceMethod, ...] | None = None
    state_report: StateReport | None = None


class Twin(Model):
    """What a property is and shall be."""

    property_name: str | None = None
    reported: Value | None = None
    observed_desired: Value | None = None


class ObservedState(Model):
    """Last words of the mapper. Nobody turns `state` over when the mapper, the node or the link dies."""

    twins: tuple[Twin, ...] | None = None
    state: str | None = None
    last_online_time: str | None = None
    extensions: FreeObject | None = None


class DeviceOwnStatus(Model):
    """`Device.status`: up to 1.22 it holds what DeviceStatus holds since."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})

    twins: tuple[Twin, ...] | None = None
    state: str | None = None
    last_online_time: str | None = None
    report_to_cloud: bool | None = None
    report_cycle: int | None = None


class Device(Resource):
    """Device v1beta1, KubeEdge 1.15 and later."""

    crd: ClassVar[Crd] = Crd(group=GROUP, version="v1beta1", kind="Device", plural="devices", status_subresource=False)

    spec: DeviceSpec = DeviceSpec()
    status: DeviceOwnStatus | None = None


class NoSpec(Model):
    """DeviceStatus has nothing to ask for."""


class DeviceStatus(Resource):
    """DeviceStatus v1beta1, KubeEdge 1.23 and later: same name as its Device."""

    crd: ClassVar[Crd] = Crd(
        group=GROUP, version="v1beta1", kind="DeviceStatus", plural="devicestatuses", status_subresource=False
    )

    spec: NoSpec = NoSpec()
    status: ObservedState | None = None


class ModelProperty(Model):
    """One property that devices of a model have."""

    name: str | None = None
    description: str | None = None
    type: Literal["INT", "FLOAT", "DOUBLE", "STRING", "BOOLEAN", "BYTES", "STREAM"] | None = None
    access_mode: AccessMode | None = None
    minimum: str | None = None
    maximum: str | None = None
    unit: str | None = None
    visitors: Visitor | None = None


class DeviceModelSpec(Model):
    """What devices of a model have in common."""

    properties: tuple[ModelProperty, ...] | None = None
    protocol: str | None = None
    protocol_config_data: FreeObject | None = None


class DeviceModel(Resource):
    """DeviceModel v1beta1."""

    crd: ClassVar[Crd] = Crd(
        group=GROUP, version="v1beta1", kind="DeviceModel", plural="devicemodels", status_subresource=False
    )

    spec: DeviceModelSpec = DeviceModelSpec()
