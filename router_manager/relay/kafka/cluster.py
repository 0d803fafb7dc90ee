"""Which cluster, and how a client of ours introduces itself there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crds.egress import EgressPolicy
from crds.models.addresses import Kafka
from router_manager.domain.peers import Certified
from router_manager.domain.table import Way
from router_manager.relay.targets.credentials import CredentialError, Credentials
from spire.identity import Identity, IdentitySource


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A Kafka cluster. Its brokers have certificates from files: no SPIFFE ID can be asked of them.

    Attributes:
        servers: host:port of some of its brokers; they name the others.
        roots: PEM; certificates of its brokers are for their hosts, from one of these. None: the system's.
        plain: without TLS.
        user: name and password, where certificates are not what it knows clients by.
    """

    servers: tuple[str, ...]
    roots: str | None = None
    plain: bool = False
    user: tuple[str, str] | None = None

    def configuration(self, identity: Identity | None) -> dict[str, Any]:
        """Settings of librdkafka that every client of this cluster has.

        Args:
            identity: shown in the TLS handshake; of a relay with --insecure there is none.
        """
        found: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.servers),
            "client.id": "fluidos-edge-relay",
            "log_level": 2,  # what is wrong with a connection is told to `error_cb` as well
            # It asks for versions of its own where a broker's answer to that question is late.
            "api.version.request.timeout.ms": 30_000,
            "reconnect.backoff.ms": 100,
            "reconnect.backoff.max.ms": 2_000,
            "security.protocol": ("SASL_" if self.user else "") + ("PLAINTEXT" if self.plain else "SSL"),
        }
        if self.user is not None:
            name, password = self.user
            found |= {"sasl.mechanism": "SCRAM-SHA-512", "sasl.username": name, "sasl.password": password}
        if not self.plain:
            if self.roots is not None:
                found["ssl.ca.pem"] = self.roots
            if identity is not None:
                found["ssl.certificate.pem"] = identity.svid.chain_pem
                found["ssl.key.pem"] = identity.svid.key_pem
        return found


class RefusedError(OSError):
    """The operator has not named this cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """Those that routes may name.

    librdkafka dials by itself, wherever a cluster's brokers say that they are. So none is dialled that the operator
    has not named.

    Attributes:
        policy: names them.
        source: identity of the relay; None is `--insecure`.
        credentials: that routes may name.
        roots: PEM, of clusters whose route says nothing of them.
    """

    policy: EgressPolicy
    source: IdentitySource | None = None
    credentials: Credentials
    roots: str | None = None

    @property
    def identity(self) -> Identity | None:
        """What the relay shows now."""
        return None if self.source is None else self.source.current

    def of(self, way: Way) -> Cluster:
        """The cluster of a lane.

        Raises:
            RefusedError: it may not be dialled.
            CredentialError: the credential of its route cannot be used.
        """
        address = way.target.address
        assert isinstance(address, Kafka)  # noqa: S101 - who asks has looked
        refusal = self.policy.kafka_refusal(address.bootstrap_servers)
        if refusal is not None:
            raise RefusedError(refusal)
        roots = way.peer.roots if isinstance(way.peer, Certified) else self.roots
        plain = roots is None and (self.source is None or self.policy.plain_http)
        return Cluster(servers=address.bootstrap_servers, roots=roots, plain=plain, user=self._user(way))

    def _user(self, way: Way) -> tuple[str, str] | None:
        credential = self.credentials.of(way)
        if credential is None:
            return None
        if credential.username is None or credential.password is None:
            raise CredentialError(f"credential {way.target.credential}: Kafka wants username and password")
        return credential.username, credential.password
