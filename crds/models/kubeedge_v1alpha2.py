"""KubeEdge's device kinds as they were up to 1.15: the version that FLUIDOS' edge fork speaks.

Source: kubeedge/kubeedge v1.14.5, build/crds/devices.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from crds.models.base import Crd, Model, Resource
from crds.models.fluidos import FreeObject
from crds.models.kubeedge import GROUP, AccessMode, Metadata, ModelRef, Value, Visitor

Byte = Annotated[str, Field(json_schema_extra={"format": "byte"})]
Baud = Literal[
    115200, 57600, 38400, 19200, 9600, 4800, 2400, 1800, 1200, 600, 300, 200, 150, 134, 110, 75, 50
]  # fmt: skip


class DataProperty(Model):
    """A property that external programs process."""

    property_name: str | None = None
    metadata: Metadata | None = None


class Data(Model):
    """Time series that mappers publish themselves."""

    data_properties: tuple[DataProperty, ...] | None = None
    data_topic: str | None = None


class NodeRequirement(Model):
    """core/v1 NodeSelectorRequirement."""

    key: str
    operator: str
    values: tuple[str, ...] | None = None


class NodeTerm(Model):
    """core/v1 NodeSelectorTerm."""

    match_expressions: tuple[NodeRequirement, ...] | None = None
    match_fields: tuple[NodeRequirement, ...] | None = None


class NodeSelector(Model):
    """core/v1 NodeSelector: one of the terms must match."""

    node_selector_terms: tuple[NodeTerm, ...]


class ConverterStep(Model):
    """One arithmetic step."""

    operation_type: str | None = None
    operation_value: float | None = None


class DataConverter(Model):
    """How bytes of a characteristic become a number."""

    start_index: int | None = None
    end_index: int | None = None
    shift_left: int | None = None
    shift_right: int | None = None
    order_of_operations: tuple[ConverterStep, ...] | None = None


class BluetoothVisitor(Model):
    """A GATT characteristic."""

    characteristic_uuid: Annotated[str | None, Field(alias="characteristicUUID")] = None
    data_write: dict[str, Byte] | None = None
    data_converter: DataConverter | None = None


class ModbusVisitor(Model):
    """A Modbus register."""

    register_kind: Annotated[
        Literal["CoilRegister", "DiscreteInputRegister", "InputRegister", "HoldingRegister"] | None,
        Field(alias="register"),
    ] = None
    offset: int | None = None
    limit: int | None = None
    scale: float | None = None
    is_swap: bool | None = None
    is_register_swap: bool | None = None


class OpcuaVisitor(Model):
    """An OPC UA node."""

    node_id: Annotated[str | None, Field(alias="nodeID")] = None
    browse_name: str | None = None


class PropertyVisitor(Model):
    """How a mapper reaches one property. Cycles are nanoseconds."""

    property_name: str | None = None
    report_cycle: int | None = None
    collect_cycle: int | None = None
    customized_values: FreeObject | None = None
    bluetooth: BluetoothVisitor | None = None
    modbus: ModbusVisitor | None = None
    opcua: OpcuaVisitor | None = None
    customized_protocol: Visitor | None = None


class BluetoothProtocol(Model):
    """A Bluetooth device."""

    mac_address: str | None = None


class ModbusProtocol(Model):
    """A Modbus device."""

    slave_id: Annotated[int | None, Field(alias="slaveID")] = None


class OpcuaProtocol(Model):
    """An OPC UA server."""

    url: str | None = None
    user_name: str | None = None
    password: str | None = None
    security_policy: str | None = None
    security_mode: str | None = None
    certificate: str | None = None
    private_key: str | None = None
    timeout: int | None = None


class Com(Model):
    """A serial port."""

    serial_port: str | None = None
    baud_rate: Baud | None = None
    data_bits: Literal[8, 7, 6, 5] | None = None
    parity: Literal["none", "even", "odd"] | None = None
    stop_bits: Literal[1, 2] | None = None


class Tcp(Model):
    """A TCP peer."""

    ip: str | None = None
    port: int | None = None


class CommonProtocol(Model):
    """What protocols share."""

    com: Com | None = None
    tcp: Tcp | None = None
    comm_type: str | None = None
    reconn_timeout: int | None = None
    reconn_retry_times: int | None = None
    collect_timeout: int | None = None
    collect_retry_times: int | None = None
    collect_type: Literal["sync", "async"] | None = None
    customized_values: FreeObject | None = None


class Protocol(Model):
    """How the device is reached: one of the protocols, and what they share."""

    bluetooth: BluetoothProtocol | None = None
    modbus: ModbusProtocol | None = None
    opcua: OpcuaProtocol | None = None
    customized_protocol: Visitor | None = None
    common: CommonProtocol | None = None


class DeviceSpec(Model):
    """A device on the nodes that a selector names."""

    device_model_ref: ModelRef | None = None
    node_selector: NodeSelector | None = None
    protocol: Protocol | None = None
    property_visitors: tuple[PropertyVisitor, ...] | None = None
    data: Data | None = None


class Twin(Model):
    """What a property is and shall be."""

    property_name: str | None = None
    desired: Value | None = None
    reported: Value | None = None


class DeviceOwnStatus(Model):
    """Twins only: this version knows no state."""

    twins: tuple[Twin, ...] | None = None


class Device(Resource):
    """Device v1alpha2."""

    crd: ClassVar[Crd] = Crd(group=GROUP, version="v1alpha2", kind="Device", plural="devices", status_subresource=False)

    spec: DeviceSpec = DeviceSpec()
    status: DeviceOwnStatus | None = None


class FlagType(Model):
    """`boolean`."""

    access_mode: AccessMode | None = None
    default_value: bool | None = None


class BytesType(Model):
    """`bytes`."""

    access_mode: AccessMode | None = None


class RealType(Model):
    """`float` and `double`."""

    access_mode: AccessMode | None = None
    default_value: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    unit: str | None = None


class IntType(Model):
    """`int`."""

    access_mode: AccessMode | None = None
    default_value: int | None = None
    minimum: int | None = None
    maximum: int | None = None
    unit: str | None = None


class StringType(Model):
    """`string`."""

    access_mode: AccessMode | None = None
    default_value: str | None = None


class PropertyType(Model):
    """One of them is set."""

    boolean: FlagType | None = None
    bytes_: Annotated[BytesType | None, Field(alias="bytes")] = None
    double: RealType | None = None
    float_: Annotated[RealType | None, Field(alias="float")] = None
    int_: Annotated[IntType | None, Field(alias="int")] = None
    string: StringType | None = None


class ModelProperty(Model):
    """One property that devices of a model have."""

    name: str | None = None
    description: str | None = None
    type: PropertyType | None = None


class DeviceModelSpec(Model):
    """What devices of a model have in common."""

    properties: tuple[ModelProperty, ...] | None = None
    protocol: str | None = None


class DeviceModel(Resource):
    """DeviceModel v1alpha2."""

    crd: ClassVar[Crd] = Crd(
        group=GROUP, version="v1alpha2", kind="DeviceModel", plural="devicemodels", status_subresource=False
    )

    spec: DeviceModelSpec = DeviceModelSpec()
