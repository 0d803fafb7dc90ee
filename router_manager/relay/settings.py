"""Flags and environment of the relay."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator

from crds.errors import Terminal
from crds.kube.process import EgressSettings
from crds.models.addresses import Kafka, KafkaServer
from crds.models.addresses import KafkaTopic as Topic
from crds.models.base import Name
from crds.models.delivery import Endpoint
from router_manager.domain.admission import accounts_only
from router_manager.domain.partition import Partition
from router_manager.relay.engine import Bounds
from router_manager.relay.inlet.server import InletSettings
from router_manager.relay.kafka.cluster import Cluster
from router_manager.relay.kafka.source import SiteSettings
from router_manager.relay.listener.limits import Limits
from router_manager.relay.listener.server import ListenSettings, Secured
from router_manager.relay.mqtt.client import SessionSettings
from router_manager.relay.mqtt.packets import Version
from spire.domain.authorization import any_known, exactly
from spire.identity import IdentitySource
from spire.tls import client_context, server_context
from spire.workload import IdentitySettings

_MIB = 1 << 20
_NO_BROKER = "none"
_SECURE, _PLAIN = ("mqtts", 8883), ("mqtt", 1883)


class Settings(EgressSettings, IdentitySettings):
    """`python -m router_manager.relay --node edge-1 ...`."""

    node: Name = Field(description="name of the Node that this relay serves")
    broker: str | None = Field(
        default=None,
        description="the node's broker, mqtts://host[:port] (--insecure: mqtt://host[:port]); this host if not given, "
        "and `none` where all devices come by --listen",
    )
    mqtt_version: Literal["3.1.1", "5"] = Field(default="5", description="protocol version spoken to the broker")
    state_dir: Path = Field(description="folder of the spool; a second relay with the same one stands by")
    partitions: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="parts that the node's devices are divided into; each process serves one that is free"
    )
    lease_seconds: Annotated[float, Field(ge=3, le=300)] | None = Field(
        default=None,
        description="relays on other machines serve the same node: take readings while holding a Lease of so long",
    )
    spool_mebibytes: Annotated[int, Field(ge=32)] = Field(
        default=4096, description="disk that the spool may use before the broker has to wait"
    )
    spool_reserve_mebibytes: Annotated[int, Field(ge=0)] = Field(
        default=256, description="disk that the spool leaves to others: below that the broker has to wait, too"
    )
    lane_share: Annotated[int, Field(ge=1, le=100)] = Field(
        default=50,
        description="percent of the spool that a target may hold back whose route says whenFull: DropOldest",
    )
    dead_letter_mebibytes: Annotated[int, Field(ge=1)] = Field(
        default=256, description="disk for what targets refuse; the oldest goes when there is more"
    )
    credentials_dir: Path | None = Field(
        default=None, description="folder of the credentials that routes may name, <namespace>.<name> each"
    )
    target_timeout_seconds: Annotated[float, Field(gt=0, le=300)] = Field(
        default=10.0, description="how long a target may take for its answer"
    )
    drain_seconds: Annotated[float, Field(ge=0, le=300)] = Field(
        default=5.0, description="how long to go on delivering after SIGTERM"
    )

    listen: str | None = Field(
        default=None,
        validate_default=True,
        description="host:port where devices connect without the broker; --insecure: of loopback only",
    )
    listen_connections: Annotated[int, Field(ge=1, le=65536)] = Field(
        default=1024, description="connections of devices at a time"
    )
    listen_rate: Annotated[float, Field(gt=0, le=10_000_000)] = Field(
        default=1000.0, description="messages a second of one device; what is above has to wait with it"
    )

    inlet: str | None = Field(
        default=None,
        description="host:port where KubeEdge's router brings readings, in place of broker and devices",
    )

    kafka_topic: Topic | None = Field(default=None, description="topic of the site's readings in its Kafka")
    to_kafka: tuple[KafkaServer, ...] = Field(
        default=(), description="host:port of the site's Kafka: put each reading there once, for deliver relays"
    )
    from_kafka: tuple[KafkaServer, ...] = Field(
        default=(), description="host:port of the site's Kafka: deliver what edge relays of all nodes put there"
    )
    kafka_group: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")] = Field(
        default="fluidos-edge-deliver", description="group of the deliver relays, which share the topic's partitions"
    )
    allow_commands: bool = Field(
        default=False, description="take commands for devices from the Kafka topics that routes name (commandsFrom)"
    )
    kafka_roots: Path | None = Field(
        default=None, description="PEM file: whose certificates Kafka brokers have where a route does not say it"
    )

    @field_validator("to_kafka", "from_kafka")
    @classmethod
    def _has_a_topic(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if value and info.data.get("kafka_topic") is None:
            raise ValueError("--kafka-topic beside it")
        return value

    @field_validator("from_kafka")
    @classmethod
    def _comes_alone(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        others = any(info.data.get(name) for name in ("to_kafka", "broker", "listen", "inlet"))
        if value and (others or info.data.get("partitions", 1) > 1):
            raise ValueError("none with --to-kafka, --broker, --listen, --inlet or --partitions: one way in")
        return value

    @field_validator("inlet")
    @classmethod
    def _takes_their_place(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        host, port = _address(value)
        if not host or port is None:
            raise ValueError("host:port")
        others = any(info.data.get(name) for name in ("broker", "listen", "lease_seconds"))
        if others or info.data.get("partitions", 1) > 1:
            raise ValueError("none with --broker, --listen, --lease-seconds or --partitions: readings come by one way")
        return value

    @field_validator("listen")
    @classmethod
    def _is_an_address(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            if info.data.get("broker") == _NO_BROKER:
                raise ValueError("host:port (with --broker none there is no other way in)")
            return None
        host, port = _address(value)
        if not host or port is None:
            raise ValueError("host:port")
        if info.data.get("partitions", 1) > 1:
            raise ValueError("none with --partitions (a device would not know who serves its part)")
        if info.data.get("insecure", False) and not _is_loopback(host):
            raise ValueError("127.0.0.1:port or [::1]:port (--insecure: devices prove nothing there)")
        return value

    @field_validator("broker")
    @classmethod
    def _broker_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value in {None, _NO_BROKER}:
            return value
        parts = urlsplit(value)
        insecure = info.data.get("insecure", False)
        scheme, _ = _PLAIN if insecure else _SECURE
        if parts.scheme != scheme or not parts.hostname:
            raise ValueError(f"{scheme}://host[:port]" + ("" if insecure else " (mqtt:// is for --insecure)"))
        return value

    def session(self, identity: IdentitySource | None, partition: Partition) -> SessionSettings | None:
        """How the MQTT session is opened; None where there is none.

        The client id is that of the node's part: the broker keeps its queue for it. The broker has to be the one of
        this node.
        """
        if self.inlet is not None or self.from_kafka or self.broker == _NO_BROKER:
            return None
        _, port = _PLAIN if identity is None else _SECURE
        parts = urlsplit(self.broker or "//127.0.0.1")
        context = None
        if identity is not None:
            broker = identity.current.svid.spiffe_id.trust_domain.spiffe_id("broker", self.node)
            context = client_context(identity, authorize=exactly(broker))
        return SessionSettings(
            host=parts.hostname or "",
            port=parts.port or port,
            client_id=f"fluidos-edge-relay-{partition.name(self.node)}",
            version=Version.V5 if self.mqtt_version == "5" else Version.V311,
            tls=context,
        )

    def listening(self, identity: IdentitySource | None) -> ListenSettings | None:
        """Where devices connect, and who may; None where they do not."""
        if self.listen is None:
            return None
        host, port = _address(self.listen)
        secured = None
        if identity is not None:
            trust_domain = identity.current.svid.spiffe_id.trust_domain
            authorize = accounts_only(trust_domain=trust_domain, node=self.node)
            tls = server_context(identity, authorize=authorize)
            secured = Secured(tls=tls, trust_domain=trust_domain, node=self.node)
        return ListenSettings(
            host=host,
            port=port or 0,
            secured=secured,
            connections=self.listen_connections,
            limits=Limits(per_second=self.listen_rate, burst=2 * self.listen_rate),
        )

    def taking_in(self, identity: IdentitySource | None) -> InletSettings | None:
        """Where KubeEdge's router posts, which shows no certificate and looks at none; None where it does not."""
        if self.inlet is None:
            return None
        host, port = _address(self.inlet)
        tls = None
        if identity is not None:
            tls = server_context(identity, authorize=any_known(), client_certificates="optional")
        return InletSettings(host=host, port=port or 0, tls=tls)

    @property
    def collecting(self) -> Endpoint | None:
        """Where an edge relay puts all readings, in place of serving routes; None where it serves them."""
        if not self.to_kafka or self.kafka_topic is None:
            return None
        return Endpoint(name="kafka", kafka=Kafka(bootstrap_servers=self.to_kafka, topic=self.kafka_topic))

    def site(self, identity: IdentitySource | None) -> SiteSettings | None:
        """What a deliver relay reads; None where readings come from devices."""
        if not self.from_kafka or self.kafka_topic is None:
            return None
        roots = self.brokers_roots
        plain = roots is None and (identity is None or self.allow_plain_http)
        return SiteSettings(
            cluster=Cluster(servers=self.from_kafka, roots=roots, plain=plain),
            topic=self.kafka_topic,
            group=self.kafka_group,
            identity=identity,
            drain_seconds=self.drain_seconds,
        )

    @property
    def brokers_roots(self) -> str | None:
        """The text of --kafka-roots.

        Raises:
            Terminal: it cannot be read.
        """
        try:
            return None if self.kafka_roots is None else self.kafka_roots.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise Terminal(f"--kafka-roots: {error}") from error

    @property
    def bounds(self) -> Bounds:
        """What the relay may use."""
        return Bounds(
            spool_bytes=self.spool_mebibytes * _MIB,
            reserve_bytes=self.spool_reserve_mebibytes * _MIB,
            lane_share=self.lane_share / 100,
            dead_letter_bytes=self.dead_letter_mebibytes * _MIB,
        )


def _address(text: str) -> tuple[str, int | None]:
    """Host and port, as far as they can be read."""
    parts = urlsplit(f"//{text}")
    try:
        return parts.hostname or "", parts.port
    except ValueError:
        return "", None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
