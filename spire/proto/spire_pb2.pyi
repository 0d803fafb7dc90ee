from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ConnInfo(_message.Message):
    __slots__ = ("service_id", "network", "address")
    SERVICE_ID_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    service_id: int
    network: str
    address: str
    def __init__(self, service_id: _Optional[int] = ..., network: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class StdioData(_message.Message):
    __slots__ = ("channel", "data")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    channel: int
    data: bytes
    def __init__(self, channel: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class InitRequest(_message.Message):
    __slots__ = ("host_service_names",)
    HOST_SERVICE_NAMES_FIELD_NUMBER: _ClassVar[int]
    host_service_names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, host_service_names: _Optional[_Iterable[str]] = ...) -> None: ...

class InitResponse(_message.Message):
    __slots__ = ("plugin_service_names",)
    PLUGIN_SERVICE_NAMES_FIELD_NUMBER: _ClassVar[int]
    plugin_service_names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, plugin_service_names: _Optional[_Iterable[str]] = ...) -> None: ...

class CoreConfiguration(_message.Message):
    __slots__ = ("trust_domain",)
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    def __init__(self, trust_domain: _Optional[str] = ...) -> None: ...

class ConfigureRequest(_message.Message):
    __slots__ = ("core_configuration", "hcl_configuration")
    CORE_CONFIGURATION_FIELD_NUMBER: _ClassVar[int]
    HCL_CONFIGURATION_FIELD_NUMBER: _ClassVar[int]
    core_configuration: CoreConfiguration
    hcl_configuration: str
    def __init__(self, core_configuration: _Optional[_Union[CoreConfiguration, _Mapping]] = ..., hcl_configuration: _Optional[str] = ...) -> None: ...

class ValidateResponse(_message.Message):
    __slots__ = ("valid", "notes")
    VALID_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    valid: bool
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, valid: _Optional[bool] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class AttestRequest(_message.Message):
    __slots__ = ("payload", "challenge_response")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    challenge_response: bytes
    def __init__(self, payload: _Optional[bytes] = ..., challenge_response: _Optional[bytes] = ...) -> None: ...

class AgentAttributes(_message.Message):
    __slots__ = ("spiffe_id", "selector_values", "can_reattest")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_VALUES_FIELD_NUMBER: _ClassVar[int]
    CAN_REATTEST_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    selector_values: _containers.RepeatedScalarFieldContainer[str]
    can_reattest: bool
    def __init__(self, spiffe_id: _Optional[str] = ..., selector_values: _Optional[_Iterable[str]] = ..., can_reattest: _Optional[bool] = ...) -> None: ...

class AttestResponse(_message.Message):
    __slots__ = ("challenge", "agent_attributes")
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    AGENT_ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    challenge: bytes
    agent_attributes: AgentAttributes
    def __init__(self, challenge: _Optional[bytes] = ..., agent_attributes: _Optional[_Union[AgentAttributes, _Mapping]] = ...) -> None: ...

class Challenge(_message.Message):
    __slots__ = ("challenge",)
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    challenge: bytes
    def __init__(self, challenge: _Optional[bytes] = ...) -> None: ...

class PayloadOrChallengeResponse(_message.Message):
    __slots__ = ("payload", "challenge_response")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    challenge_response: bytes
    def __init__(self, payload: _Optional[bytes] = ..., challenge_response: _Optional[bytes] = ...) -> None: ...

class DistinguishedName(_message.Message):
    __slots__ = ("common_name",)
    COMMON_NAME_FIELD_NUMBER: _ClassVar[int]
    common_name: str
    def __init__(self, common_name: _Optional[str] = ...) -> None: ...

class X509SvidAttributes(_message.Message):
    __slots__ = ("subject",)
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    subject: DistinguishedName
    def __init__(self, subject: _Optional[_Union[DistinguishedName, _Mapping]] = ...) -> None: ...

class ComposeX509SvidRequest(_message.Message):
    __slots__ = ("attributes", "spiffe_id", "public_key")
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    attributes: X509SvidAttributes
    spiffe_id: str
    public_key: bytes
    def __init__(self, attributes: _Optional[_Union[X509SvidAttributes, _Mapping]] = ..., spiffe_id: _Optional[str] = ..., public_key: _Optional[bytes] = ...) -> None: ...

class ComposeX509SvidResponse(_message.Message):
    __slots__ = ("attributes",)
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    attributes: X509SvidAttributes
    def __init__(self, attributes: _Optional[_Union[X509SvidAttributes, _Mapping]] = ...) -> None: ...

class SpiffeId(_message.Message):
    __slots__ = ("trust_domain", "path")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    path: str
    def __init__(self, trust_domain: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class Selector(_message.Message):
    __slots__ = ("type", "value")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    type: str
    value: str
    def __init__(self, type: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class X509Svid(_message.Message):
    __slots__ = ("cert_chain", "id", "expires_at")
    CERT_CHAIN_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    cert_chain: _containers.RepeatedScalarFieldContainer[bytes]
    id: SpiffeId
    expires_at: int
    def __init__(self, cert_chain: _Optional[_Iterable[bytes]] = ..., id: _Optional[_Union[SpiffeId, _Mapping]] = ..., expires_at: _Optional[int] = ...) -> None: ...

class X509Authority(_message.Message):
    __slots__ = ("asn1",)
    ASN1_FIELD_NUMBER: _ClassVar[int]
    asn1: bytes
    def __init__(self, asn1: _Optional[bytes] = ...) -> None: ...

class Bundle(_message.Message):
    __slots__ = ("trust_domain", "x509_authorities", "refresh_hint", "sequence_number")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    X509_AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    REFRESH_HINT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    x509_authorities: _containers.RepeatedCompositeFieldContainer[X509Authority]
    refresh_hint: int
    sequence_number: int
    def __init__(self, trust_domain: _Optional[str] = ..., x509_authorities: _Optional[_Iterable[_Union[X509Authority, _Mapping]]] = ..., refresh_hint: _Optional[int] = ..., sequence_number: _Optional[int] = ...) -> None: ...

class MintX509SvidRequest(_message.Message):
    __slots__ = ("csr", "ttl")
    CSR_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    ttl: int
    def __init__(self, csr: _Optional[bytes] = ..., ttl: _Optional[int] = ...) -> None: ...

class MintX509SvidResponse(_message.Message):
    __slots__ = ("svid",)
    SVID_FIELD_NUMBER: _ClassVar[int]
    svid: X509Svid
    def __init__(self, svid: _Optional[_Union[X509Svid, _Mapping]] = ...) -> None: ...

class ListFederatedBundlesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListFederatedBundlesResponse(_message.Message):
    __slots__ = ("bundles", "next_page_token")
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    bundles: _containers.RepeatedCompositeFieldContainer[Bundle]
    next_page_token: str
    def __init__(self, bundles: _Optional[_Iterable[_Union[Bundle, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class AttestationData(_message.Message):
    __slots__ = ("type", "payload")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    type: str
    payload: bytes
    def __init__(self, type: _Optional[str] = ..., payload: _Optional[bytes] = ...) -> None: ...

class AgentX509SvidParams(_message.Message):
    __slots__ = ("csr",)
    CSR_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    def __init__(self, csr: _Optional[bytes] = ...) -> None: ...

class AttestAgentParams(_message.Message):
    __slots__ = ("data", "params")
    DATA_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    data: AttestationData
    params: AgentX509SvidParams
    def __init__(self, data: _Optional[_Union[AttestationData, _Mapping]] = ..., params: _Optional[_Union[AgentX509SvidParams, _Mapping]] = ...) -> None: ...

class AttestAgentRequest(_message.Message):
    __slots__ = ("params", "challenge_response")
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    params: AttestAgentParams
    challenge_response: bytes
    def __init__(self, params: _Optional[_Union[AttestAgentParams, _Mapping]] = ..., challenge_response: _Optional[bytes] = ...) -> None: ...

class AttestAgentResult(_message.Message):
    __slots__ = ("svid", "reattestable")
    SVID_FIELD_NUMBER: _ClassVar[int]
    REATTESTABLE_FIELD_NUMBER: _ClassVar[int]
    svid: X509Svid
    reattestable: bool
    def __init__(self, svid: _Optional[_Union[X509Svid, _Mapping]] = ..., reattestable: _Optional[bool] = ...) -> None: ...

class AttestAgentResponse(_message.Message):
    __slots__ = ("result", "challenge")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    result: AttestAgentResult
    challenge: bytes
    def __init__(self, result: _Optional[_Union[AttestAgentResult, _Mapping]] = ..., challenge: _Optional[bytes] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("id", "spiffe_id", "parent_id", "selectors", "x509_svid_ttl", "federates_with")
    ID_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    X509_SVID_TTL_FIELD_NUMBER: _ClassVar[int]
    FEDERATES_WITH_FIELD_NUMBER: _ClassVar[int]
    id: str
    spiffe_id: SpiffeId
    parent_id: SpiffeId
    selectors: _containers.RepeatedCompositeFieldContainer[Selector]
    x509_svid_ttl: int
    federates_with: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., spiffe_id: _Optional[_Union[SpiffeId, _Mapping]] = ..., parent_id: _Optional[_Union[SpiffeId, _Mapping]] = ..., selectors: _Optional[_Iterable[_Union[Selector, _Mapping]]] = ..., x509_svid_ttl: _Optional[int] = ..., federates_with: _Optional[_Iterable[str]] = ...) -> None: ...

class BatchCreateEntryRequest(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    def __init__(self, entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ...) -> None: ...

class EntryResult(_message.Message):
    __slots__ = ("status", "entry")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    status: Status
    entry: Entry
    def __init__(self, status: _Optional[_Union[Status, _Mapping]] = ..., entry: _Optional[_Union[Entry, _Mapping]] = ...) -> None: ...

class BatchCreateEntryResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[EntryResult]
    def __init__(self, results: _Optional[_Iterable[_Union[EntryResult, _Mapping]]] = ...) -> None: ...

class BatchUpdateEntryRequest(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    def __init__(self, entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ...) -> None: ...

class BatchUpdateEntryResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[EntryResult]
    def __init__(self, results: _Optional[_Iterable[_Union[EntryResult, _Mapping]]] = ...) -> None: ...
