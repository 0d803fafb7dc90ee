"""Targets and payload filters: the words that SensorClaim, DataRoute and REAR's sensor configuration share."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from crds.models.base import Distinct, Label, Model, Rule
from crds.models.shaping import JsonPointer, LineProtocol, Shape
from crds.models.trust import SpiffeIdText

Url = Annotated[str, Field(max_length=2048, pattern=r"^https?://[A-Za-z0-9._~:%\[\]-]+([/?][!-\"$-~]*)?$")]
"""An absolute http(s) URL in ASCII, without credentials in it and without a fragment.

Patterns say no white space by its class: that is Unicode's to pydantic and ASCII's to the API server.
"""

DecimalNumber = Annotated[str, Field(max_length=32, pattern=r"^-?[0-9]{1,15}(\.[0-9]{1,9})?$")]
"""A number as text: the API has no floats."""

Encoding = Literal["JSONArray", "NDJSON", "InfluxLine"]


CaBundle = Annotated[
    str,
    Field(max_length=16384, pattern=r"^-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n -]+-----END CERTIFICATE-----\n?$"),
]
"""One or more certificates in PEM."""

_ONE_PROOF = "must not set both spiffeID and caBundle"
_PROOF_OVER_TLS = "must have an https url where spiffeID or caBundle is set"
_LINE_IS_INFLUX = "must have the encoding InfluxLine where line is set"


class Endpoint(Model):
    """One place that readings are delivered to, by HTTP POST in batches.

    Over https the endpoint proves who it is before it gets a byte: by its SPIFFE ID, or by a certificate of a CA.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("!(has(self.spiffeID) && has(self.caBundle))", _ONE_PROOF),
        Rule("!(has(self.spiffeID) || has(self.caBundle)) || self.url.startsWith('https://')", _PROOF_OVER_TLS),
        Rule("!has(self.line) || self.encoding == 'InfluxLine'", _LINE_IS_INFLUX),
    )

    name: Label
    url: Url
    encoding: Encoding = "JSONArray"
    envelope: bool = False
    """Wrap each reading with flavor, device, topic and time of arrival (JSON encodings only)."""
    shape: Shape | None = None
    """What is sent of each reading; when absent, the payload byte for byte."""
    line: LineProtocol | None = None
    """How lines are made (InfluxLine only)."""
    spiffe_id: Annotated[SpiffeIdText | None, Field(alias="spiffeID")] = None
    """Exactly who it has to be; when absent, any endpoint (`/endpoint/...`) of the buyer's trust domain."""
    ca_bundle: CaBundle | None = None
    """Roots of an endpoint that has no SPIFFE ID: its certificate has to be for the host of the URL."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.spiffe_id is not None and self.ca_bundle is not None:
            raise ValueError(_ONE_PROOF)
        if not self.url.startswith("https://") and (self.spiffe_id is not None or self.ca_bundle is not None):
            raise ValueError(_PROOF_OVER_TLS)
        if self.line is not None and self.encoding != "InfluxLine":
            raise ValueError(_LINE_IS_INFLUX)
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
