"""Targets and payload filters: the words that SensorClaim, DataRoute and REAR's sensor configuration share."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from crds.models.addresses import Address, InfluxDB, Kafka, Mqtt, Url, url_of
from crds.models.base import Distinct, Label, Model, Rule
from crds.models.shaping import JsonPointer, LineProtocol, Shape
from crds.models.trust import SpiffeIdText

DecimalNumber = Annotated[str, Field(max_length=32, pattern=r"^-?[0-9]{1,15}(\.[0-9]{1,9})?$")]
"""A number as text: the API has no floats."""

Encoding = Literal["JSONArray", "NDJSON", "InfluxLine"]
Compression = Literal["None", "Gzip", "Zstd"]


CaBundle = Annotated[
    str,
    Field(max_length=16384, pattern=r"^-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n -]+-----END CERTIFICATE-----\n?$"),
]
"""One or more certificates in PEM."""

_ONE_ADDRESS = "must set exactly one of url, influxDB, kafka and mqtt"
_ONE_PROOF = "must not set both spiffeID and caBundle"
_PROOF_OVER_TLS = "must have an https or mqtts url where spiffeID or caBundle is set; of Kafka no spiffeID is known"
_LINE_IS_INFLUX = "must have the encoding InfluxLine, or influxDB, where line is set"
_ENCODING_OF_URL = "must have a url where encoding is set"
_COMPRESSIBLE = "must not set compression for mqtt, nor Zstd for influxDB"


class Endpoint(Model):
    """One place that readings are delivered to: in batches by HTTP POST, or one by one to Kafka or MQTT.

    Over TLS the endpoint proves who it is before it gets a byte: by its SPIFFE ID, or by a certificate of a CA.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("[has(self.url), has(self.influxDB), has(self.kafka), has(self.mqtt)].exists_one(one, one)", _ONE_ADDRESS),
        Rule("!(has(self.spiffeID) && has(self.caBundle))", _ONE_PROOF),
        Rule(
            "!(has(self.spiffeID) || has(self.caBundle))"
            " || (has(self.url) && self.url.startsWith('https://'))"
            " || (has(self.influxDB) && self.influxDB.url.startsWith('https://'))"
            " || (has(self.mqtt) && self.mqtt.url.startsWith('mqtts://'))"
            " || (has(self.kafka) && !has(self.spiffeID))",
            _PROOF_OVER_TLS,
        ),
        Rule("!has(self.line) || self.encoding == 'InfluxLine' || has(self.influxDB)", _LINE_IS_INFLUX),
        Rule("has(self.url) || self.encoding == 'JSONArray'", _ENCODING_OF_URL),
        Rule("self.compression == 'None' || !has(self.mqtt)", _COMPRESSIBLE),
        Rule("self.compression != 'Zstd' || !has(self.influxDB)", _COMPRESSIBLE),
    )

    name: Label
    url: Url | None = None
    """Where batches are posted to."""
    influx_db: Annotated[InfluxDB | None, Field(alias="influxDB")] = None
    kafka: Kafka | None = None
    mqtt: Mqtt | None = None
    credential: Label | None = None
    """Of the provider's relay, kept for this route's namespace and for the origin of the address alone."""
    encoding: Encoding = "JSONArray"
    """Of what is posted to `url`. InfluxDB gets lines; Kafka and MQTT get readings, one by one."""
    compression: Compression = "None"
    envelope: bool = False
    """Wrap each reading with flavor, device, topic and time of arrival (JSON only)."""
    shape: Shape | None = None
    """What is sent of each reading; when absent, the payload byte for byte."""
    line: LineProtocol | None = None
    """How lines are made (InfluxLine and influxDB only)."""
    spiffe_id: Annotated[SpiffeIdText | None, Field(alias="spiffeID")] = None
    """Exactly who it has to be; when absent, any endpoint (`/endpoint/...`) of the buyer's trust domain."""
    ca_bundle: CaBundle | None = None
    """Roots of an endpoint that has no SPIFFE ID: its certificate has to be for the host of the URL."""

    @property
    def address(self) -> Address:
        """Where it is: the one that is set."""
        return next(one for one in self._addresses if one is not None)

    @property
    def location(self) -> str:
        """The address as one URL."""
        return url_of(self.address)

    @property
    def _addresses(self) -> tuple[Address | None, ...]:
        return self.url, self.influx_db, self.kafka, self.mqtt

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if [one is not None for one in self._addresses].count(True) != 1:
            raise ValueError(_ONE_ADDRESS)
        if self.spiffe_id is not None and self.ca_bundle is not None:
            raise ValueError(_ONE_PROOF)
        proven = self.ca_bundle is not None or self.spiffe_id is not None
        provable = self.location.startswith(("https://", "mqtts://")) or (self.kafka and self.spiffe_id is None)
        if proven and not provable:
            raise ValueError(_PROOF_OVER_TLS)
        if self.line is not None and self.encoding != "InfluxLine" and self.influx_db is None:
            raise ValueError(_LINE_IS_INFLUX)
        if self.encoding != "JSONArray" and self.url is None:
            raise ValueError(_ENCODING_OF_URL)
        if (self.compression != "None" and self.mqtt) or (self.compression == "Zstd" and self.influx_db):
            raise ValueError(_COMPRESSIBLE)
        return self


class Threshold(Model):
    """Pass readings outside a band: above, below, or either."""

    rules: ClassVar[tuple[Rule, ...]] = (Rule("has(self.above) || has(self.below)", "must set above or below"),)

    field: JsonPointer
    above: DecimalNumber | None = None
    below: DecimalNumber | None = None

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if self.above is None and self.below is None:
            msg = "must set above or below"
            raise ValueError(msg)
        return self


class Deadband(Model):
    """Pass a reading when it differs from the last one that passed by at least `change`, which must be positive."""

    rules: ClassVar[tuple[Rule, ...]] = (Rule("double(self.change) > 0.0", "must have a change greater than 0"),)

    field: JsonPointer
    change: DecimalNumber

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if Decimal(self.change) <= 0:
            msg = "must have a change greater than 0"
            raise ValueError(msg)
        return self


class PayloadFilter(Model):
    """All that is set must pass, in this order: expression, threshold, deadband, everyNth, maxPerSecond."""

    expression: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """CEL over `payload`, such as `payload.humidity > 60 && payload.state == "on"`."""
    threshold: Threshold | None = None
    deadband: Deadband | None = None
    every_nth: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_per_second: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


Endpoints = Annotated[
    tuple[Endpoint, ...],
    Field(min_length=1, max_length=16),
    Distinct("name"),
]
