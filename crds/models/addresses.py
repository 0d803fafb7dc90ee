"""Where readings can be delivered to: a web server, InfluxDB, a Kafka cluster, another MQTT broker."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from crds.models.base import Distinct, Model, Rule

Url = Annotated[str, Field(max_length=2048, pattern=r"^https?://[A-Za-z0-9._~:%\[\]-]+([/?][!-\"$-~]*)?$")]
"""An absolute http(s) URL in ASCII, without credentials in it and without a fragment.

Patterns say no white space by its class: that is Unicode's to pydantic and ASCII's to the API server.
"""

BaseUrl = Annotated[str, Field(max_length=1024, pattern=r"^https?://[A-Za-z0-9._~:%\[\]-]+(/[!-\"$->@-~]*)?$")]
"""A Url without a query: paths are put behind it."""

MqttUrl = Annotated[str, Field(max_length=512, pattern=r"^mqtts?://[A-Za-z0-9._~\[\]:-]+$")]
"""The address of a broker."""

TopicTemplate = Annotated[
    str,
    Field(
        max_length=512,
        pattern=r"^([A-Za-z0-9_/]|\{(device|flavor|topic)\})([A-Za-z0-9_./:,=@~$%-]|\{(device|flavor|topic)\})*$",
    ),
]
"""An MQTT topic and what differs in it: `plant/{device}/{topic}`. No wildcards, and none of the broker's own (`$`)."""

KafkaServer = Annotated[str, Field(max_length=300, pattern=r"^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}$")]
"""host:port"""

KafkaTopic = Annotated[str, Field(max_length=249, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]

InfluxName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[ -~]+$")]

_DATABASE_OR_BUCKET = "must have database for V1, organization and bucket for V2, and nothing of the other"


class InfluxDB(Model):
    """InfluxDB's own write API: line protocol in nanoseconds, at `/write` (1.x) or `/api/v2/write` (2.x)."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.version == 'V1'"
            " ? has(self.database) && !has(self.organization) && !has(self.bucket)"
            " : has(self.organization) && has(self.bucket) && !has(self.database) && !has(self.retentionPolicy)",
            _DATABASE_OR_BUCKET,
        ),
    )

    url: BaseUrl
    version: Literal["V1", "V2"]
    database: InfluxName | None = None
    retention_policy: InfluxName | None = None
    """When absent, the database's default."""
    organization: InfluxName | None = None
    bucket: InfluxName | None = None

    @model_validator(mode="after")
    def _database_or_bucket(self) -> Self:
        of_v1 = self.database is not None and self.organization is None and self.bucket is None
        of_v2 = self.organization is not None and self.bucket is not None
        of_v2 = of_v2 and self.database is None and self.retention_policy is None
        if not (of_v1 if self.version == "V1" else of_v2):
            raise ValueError(_DATABASE_OR_BUCKET)
        return self


class Kafka(Model):
    """A topic of a Kafka cluster: one record a reading, with the device as key."""

    bootstrap_servers: Annotated[tuple[KafkaServer, ...], Field(min_length=1, max_length=16), Distinct()]
    topic: KafkaTopic
    commands_from: KafkaTopic | None = None
    """Where commands for the devices of the route come from."""


class Mqtt(Model):
    """Topics of another broker: one message a reading, at QoS 1."""

    url: MqttUrl
    topic: TopicTemplate
    version: Literal["3.1.1", "5"] = "5"


Address = Url | InfluxDB | Kafka | Mqtt


def url_of(address: Address) -> str:
    """The address as one URL, whose scheme says whether it is proven by TLS."""
    match address:
        case str():
            return address
        case InfluxDB():
            return address.url
        case Mqtt():
            return address.url
        case Kafka():
            return f"kafka://{','.join(address.bootstrap_servers)}/{address.topic}"
