"""Which cluster, and how a client of ours introduces itself there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spire.identity import Identity


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
