"""Where a provider lets a buyer's endpoints be.

What a buyer supplies is hostile: without this an endpoint could be the provider's own API server, a cloud's metadata
address, or another tenant's service. Names are resolved by the caller; every address of a name must pass, when the
contract is made and again when the relay connects.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from urllib.parse import urlsplit

from crds.errors import InvalidField

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
PORTS = {"http": 80, "https": 443, "mqtt": 1883, "mqtts": 8883}
"""Of a URL that names none, by its scheme."""


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """`allowed` wins; then `refused` (cluster ranges) and special-use addresses are refused; the rest passes."""

    allowed: tuple[Network, ...] = ()
    refused: tuple[Network, ...] = ()
    plain_http: bool = False
    """Endpoints may be without TLS."""
    kafka: frozenset[str] = frozenset()
    """Brokers (host:port) that may be dialled. The others a cluster tells its client: no address can be checked."""

    @classmethod
    def parse(
        cls,
        *,
        allowed: Iterable[str] = (),
        refused: Iterable[str] = (),
        plain_http: bool = False,
        kafka: Iterable[str] = (),
    ) -> EgressPolicy:
        """From CIDRs, and the host:port of brokers.

        Raises:
            InvalidField: names the CIDR.
        """
        return cls(
            allowed=_networks("egress.allow", allowed),
            refused=_networks("egress.refuse", refused),
            plain_http=plain_http,
            kafka=frozenset(kafka),
        )

    def plain_refusal(self, url: str) -> str | None:
        """Why this URL may not be used by who has an identity, or None."""
        if self.plain_http or not url.startswith(("http://", "mqtt://")):
            return None
        plain, asked = ("plain HTTP", "https") if url.startswith("http://") else ("plain MQTT", "mqtts")
        return f"{url} is {plain}: {asked} is asked for, unless the provider says --allow-plain-http"

    def kafka_refusal(self, servers: Iterable[str]) -> str | None:
        """Why a cluster may not be dialled at these brokers, or None."""
        strangers = sorted(set(servers) - self.kafka)
        if not strangers:
            return None
        return f"{', '.join(strangers)}: no Kafka broker that the provider names with --allow-kafka"

    def refusal(self, address: Address) -> str | None:
        """Why this address may not be connected to, or None."""
        plain = _unmapped(address)
        if any(plain in network for network in self.allowed if network.version == plain.version):
            return None
        for network in self.refused:
            if network.version == plain.version and plain in network:
                return f"{plain} is in {network}, which the provider's egress policy refuses"
        kind = _special_use(plain)
        return f"{plain} is {kind}, which the provider's egress policy refuses" if kind else None


def host_and_port(url: str, *, field: str = "url") -> tuple[str, int]:
    """The host (brackets removed) and port of an http(s) or mqtt(s) URL.

    Raises:
        InvalidField: no host, a port that is none, or credentials in the URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidField(field=field, value=url, expected="an absolute URL with a valid port") from error
    if parts.scheme not in PORTS or not parts.hostname or "@" in parts.netloc:
        raise InvalidField(field=field, value=url, expected="an absolute http(s) or mqtt(s) URL without credentials")
    return parts.hostname, port or PORTS[parts.scheme]


def _networks(field: str, cidrs: Iterable[str]) -> tuple[Network, ...]:
    found = []
    for cidr in cidrs:
        try:
            found.append(ip_network(cidr))
        except ValueError as error:
            raise InvalidField(field=field, value=cidr, expected="a CIDR such as 10.0.0.0/8") from error
    return tuple(found)


def _unmapped(address: Address) -> Address:
    """IPv4 written as IPv6 (::ffff:127.0.0.1, 64:ff9b::7f00:1, 2002:7f00:1::) reaches the IPv4 address."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address.sixtofour:
            return address.sixtofour
        if address in ip_network("64:ff9b::/96"):
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _special_use(address: Address) -> str | None:
    for kind in ("loopback", "link_local", "multicast", "unspecified", "reserved"):
        if getattr(address, f"is_{kind}"):
            return kind.replace("_", "-")
    if isinstance(address, IPv4Address) and int(address) == 0xFFFFFFFF:
        return "broadcast"
    return None
