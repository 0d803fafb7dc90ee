"""Targets prove who they are before they get a byte; the relay proves who it is to them."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from crds.models.delivery import Endpoint
from router_manager.domain.table import LaneKey
from router_manager.relay.engine import Relay
from router_manager.relay.targets.exits import Exits
from scripts.testbed.broker import Broker
from spire.domain.authorization import exactly, under
from spire.identity import FixedIdentity, Identity
from spire.tls import server_context
from tests.relay.support import (
    LOOPBACK,
    Target,
    endpoint,
    numbered,
    publish_all,
    relay,
    route,
    serve,
    serving,
    table,
    until,
)
from tests.spire.pki import Ca, bundles_of

pytestmark = pytest.mark.broker
KEY = LaneKey("route-1", "target")
PROVIDER, CONSUMER, STRANGER = Ca.of("provider.test"), Ca.of("consumer.test"), Ca.of("stranger.test")
RELAY = PROVIDER.identity("/relay/edge-1", knows=[CONSUMER])
TELEGRAF = "/endpoint/default/telegraf"


def secured(identity: Identity, path: str = "/relay/") -> Target:
    """A target that takes from relays alone."""
    return Target(tls=server_context(FixedIdentity(identity), authorize=under(path)))


def at_consumer(path: str = TELEGRAF, ca: Ca = CONSUMER) -> Target:
    return secured(ca.identity(path, knows=[PROVIDER]))


def exits(identity: Identity | FixedIdentity = RELAY, *, plain_http: bool = False) -> Exits:
    source = identity if isinstance(identity, FixedIdentity) else FixedIdentity(identity)
    return Exits(replace(LOOPBACK, plain_http=plain_http), identity=source, timeout_seconds=2.0)


def problem(running: Relay, key: LaneKey = KEY) -> str:
    return running.pumps[key].statistics.problem


@pytest.mark.parametrize(
    ("target", "trust_domain", "spiffe_id"),
    [
        pytest.param(partial(at_consumer), "consumer.test", None, id="endpoint of the buyer's domain"),
        pytest.param(partial(at_consumer, ca=PROVIDER), None, None, id="endpoint of the relay's own domain"),
        pytest.param(
            partial(at_consumer, "/somebody/else"), None, "spiffe://consumer.test/somebody/else", id="named endpoint"
        ),
    ],
)
async def test_who_is_expected_gets_the_readings_and_learns_from_whom(
    tmp_path: Path, broker: Broker, target: Callable[[], Target], trust_domain: str | None, spiffe_id: str | None
) -> None:
    async with serving(target()) as served, relay(tmp_path / "state", broker.port, exits=exits()) as running:
        await serve(running, route(endpoint(served, spiffe_id=spiffe_id), trust_domain=trust_domain))
        await publish_all(broker.port, numbered(range(500)))
        await until(lambda: served.ids == list(range(500)))
        assert {str(peer) for peer in served.peers} == {"spiffe://provider.test/relay/edge-1"}


def forged() -> Identity:
    """An endpoint of the consumer's domain as a certificate authority of the provider's domain signs it."""
    svid = PROVIDER.svid(TELEGRAF, trust_domain=CONSUMER.trust_domain)
    return Identity(svid=svid, bundles=bundles_of(PROVIDER, CONSUMER))


def expired() -> Identity:
    past = datetime.now(UTC) - timedelta(seconds=5)
    return Identity(svid=CONSUMER.svid(TELEGRAF, not_after=past), bundles=bundles_of(PROVIDER, CONSUMER))


@pytest.mark.parametrize(
    ("identity", "spiffe_id", "told"),
    [
        pytest.param(
            partial(CONSUMER.identity, "/manager/rear-gateway", knows=[PROVIDER]),
            None,
            "the peer is spiffe://consumer.test/manager/rear-gateway, expected spiffe://consumer.test/endpoint/",
            id="no endpoint",
        ),
        pytest.param(
            partial(PROVIDER.identity, TELEGRAF), None, "expected spiffe://consumer.test/endpoint/", id="other domain"
        ),
        pytest.param(
            partial(CONSUMER.identity, TELEGRAF, knows=[PROVIDER]),
            "spiffe://consumer.test/endpoint/default/influx",
            "expected spiffe://consumer.test/endpoint/default/influx",
            id="other endpoint",
        ),
        pytest.param(
            forged, None, "is not signed by a root of consumer.test", id="signed by another domain's authority"
        ),
        pytest.param(expired, None, "expired", id="expired"),
        pytest.param(
            partial(STRANGER.identity, TELEGRAF, knows=[PROVIDER]), None, "certificate verify failed", id="stranger"
        ),
        pytest.param(
            partial(STRANGER.identity, TELEGRAF, knows=[PROVIDER]),
            "spiffe://stranger.test/endpoint/default/telegraf",
            "no roots of trust domain stranger.test are known",
            id="domain without federation",
        ),
    ],
)
async def test_anybody_else_gets_nothing_until_the_right_one_is_there(
    tmp_path: Path, broker: Broker, identity: Callable[[], Identity], spiffe_id: str | None, told: str
) -> None:
    source = FixedIdentity(identity())
    target = Target(tls=server_context(source, authorize=under("/relay/")))
    async with serving(target), relay(tmp_path / "state", broker.port, exits=exits()) as running:
        await serve(running, route(endpoint(target, spiffe_id=spiffe_id), trust_domain="consumer.test"))
        await publish_all(broker.port, numbered(range(10)))
        await until(lambda: problem(running))
        assert told in problem(running)
        assert target.bodies == []
        # The one who is expected takes over the address, and all that was kept.
        right = FixedIdentity(CONSUMER.identity(TELEGRAF, knows=[PROVIDER]))
        async with serving(Target(tls=server_context(right, authorize=under("/relay/")))) as other:
            running.apply(table(route(endpoint(other), trust_domain="consumer.test")))
            await until(lambda: other.ids == list(range(10)))
        assert target.bodies == []


async def test_a_target_whose_certificate_becomes_right_gets_what_it_is_owed(tmp_path: Path, broker: Broker) -> None:
    source = FixedIdentity(CONSUMER.identity("/endpoint/default/wrong", knows=[PROVIDER]))
    target = Target(tls=server_context(source, authorize=under("/relay/")))
    named = f"spiffe://consumer.test{TELEGRAF}"
    async with serving(target), relay(tmp_path / "state", broker.port, exits=exits()) as running:
        await serve(running, route(endpoint(target, spiffe_id=named)))
        await publish_all(broker.port, numbered(range(10)))
        await until(lambda: "expected" in problem(running))
        source.replace(CONSUMER.identity(TELEGRAF, knows=[PROVIDER]))
        await until(lambda: target.ids == list(range(10)))
        await until(lambda: not problem(running))


async def test_a_target_that_does_not_take_from_this_relay_is_told_as_such(tmp_path: Path, broker: Broker) -> None:
    target = Target(
        tls=server_context(
            FixedIdentity(CONSUMER.identity(TELEGRAF, knows=[PROVIDER])),
            authorize=exactly(PROVIDER.trust_domain.spiffe_id("relay", "edge-2")),
        )
    )
    async with serving(target), relay(tmp_path / "state", broker.port, exits=exits()) as running:
        await serve(running, route(endpoint(target), trust_domain="consumer.test"))
        await publish_all(broker.port, numbered(range(10)))
        await until(lambda: running.pumps[KEY].statistics.retried >= 2)
        assert problem(running)
        assert target.bodies == []


async def test_a_connection_made_for_one_expectation_serves_no_other(tmp_path: Path, broker: Broker) -> None:
    right, wrong = f"spiffe://consumer.test{TELEGRAF}", "spiffe://consumer.test/endpoint/default/influx"
    async with serving(at_consumer()) as target, relay(tmp_path / "state", broker.port, exits=exits()) as running:
        await serve(
            running,
            route(endpoint(target, spiffe_id=right)),
            route(endpoint(target, spiffe_id=wrong), uid="route-2", topics=["c"]),
        )
        await publish_all(broker.port, numbered(range(10)))
        await until(lambda: target.ids == list(range(10)))
        await publish_all(broker.port, numbered([99], topic="c"))
        await until(lambda: problem(running, LaneKey("route-2", "target")))
        assert target.ids == list(range(10))


async def test_renewing_the_identity_under_load_loses_and_reorders_nothing(tmp_path: Path, broker: Broker) -> None:
    source = FixedIdentity(RELAY)
    sending = exits(source)
    async with (
        serving(at_consumer()) as steady,
        serving(at_consumer()) as late,
        relay(tmp_path / "state", broker.port, exits=sending) as running,
    ):
        kept = route(endpoint(steady), trust_domain="consumer.test")
        await serve(running, kept)
        for number in range(10):
            publishing = asyncio.create_task(
                publish_all(broker.port, numbered(range(number * 100, number * 100 + 100)))
            )
            source.replace(PROVIDER.identity("/relay/edge-1", knows=[CONSUMER]))
            await publishing
        await until(lambda: steady.ids == list(range(1000)))
        assert running.pumps[KEY].statistics.retried == 0
        # From now on everybody meets the identity of now, and proves anew who it is.
        source.replace(PROVIDER.identity("/relay/renamed", knows=[CONSUMER]))
        await serve(running, kept, route(endpoint(late), uid="route-2", trust_domain="consumer.test"))
        await publish_all(broker.port, numbered([9999]))
        await until(lambda: late.ids == [9999])
        await until(lambda: steady.ids[-1] == 9999)
        before, now = "spiffe://provider.test/relay/edge-1", "spiffe://provider.test/relay/renamed"
        assert {str(peer) for peer in steady.peers[:-1]} == {before}
        assert {str(steady.peers[-1]), str(late.peers[-1])} == {now}


async def test_an_endpoint_that_is_not_renewed_gets_nothing_more_on_a_kept_connection(
    tmp_path: Path, broker: Broker
) -> None:
    source, other = FixedIdentity(RELAY), FixedIdentity(CONSUMER.identity(TELEGRAF, knows=[PROVIDER]))
    target = Target(tls=server_context(other, authorize=under("/relay/")))
    async with serving(target), relay(tmp_path / "state", broker.port, exits=exits(source)) as running:
        await serve(running, route(endpoint(target), trust_domain="consumer.test"))
        await publish_all(broker.port, numbered(range(10)))
        await until(lambda: target.ids == list(range(10)))
        other.replace(expired())
        source.replace(PROVIDER.identity("/relay/edge-1", knows=[CONSUMER]))
        await publish_all(broker.port, numbered(range(10, 20)))
        await until(lambda: "expired" in problem(running))
        assert target.ids == list(range(10))


async def test_an_end_of_federation_stops_kept_connections_too(tmp_path: Path, broker: Broker) -> None:
    source = FixedIdentity(RELAY)
    async with (
        serving(at_consumer()) as target,
        relay(tmp_path / "state", broker.port, exits=exits(source)) as running,
    ):
        await serve(running, route(endpoint(target), trust_domain="consumer.test"))
        await publish_all(broker.port, numbered(range(10)))
        await until(lambda: target.ids == list(range(10)))
        source.replace(Identity(svid=RELAY.svid, bundles=bundles_of(PROVIDER)))
        await publish_all(broker.port, numbered(range(10, 20)))
        await until(lambda: "no roots of trust domain consumer.test" in problem(running))
        assert target.ids == list(range(10))
        source.replace(RELAY)
        await until(lambda: target.ids == list(range(20)))


@pytest.mark.parametrize("plain_http", [False, True])
async def test_plain_http_is_for_relays_that_are_allowed_it(tmp_path: Path, broker: Broker, plain_http: bool) -> None:
    sending = exits(plain_http=plain_http)
    async with serving(Target()) as target, relay(tmp_path / "state", broker.port, exits=sending) as running:
        await serve(running, route(endpoint(target)))
        await publish_all(broker.port, numbered(range(10)))
        if plain_http:
            await until(lambda: target.ids == list(range(10)))
        else:
            await until(lambda: "plain HTTP" in problem(running))
            assert target.bodies == []


async def test_a_relay_without_identity_cannot_tell_a_spiffe_id(tmp_path: Path, broker: Broker) -> None:
    async with serving(at_consumer()) as target, relay(tmp_path / "state", broker.port) as running:
        await serve(running, route(endpoint(target, spiffe_id=f"spiffe://consumer.test{TELEGRAF}")))
        await publish_all(broker.port, numbered(range(10)))
        await until(lambda: "nobody can prove to a relay with --insecure" in problem(running))
        assert target.bodies == []


class FileCa:
    """An authority of somebody who knows no SPIFFE: PEM files, names of hosts."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a plant's own")])
        self.certificate = self._sign(self.name, self.key, x509.BasicConstraints(ca=True, path_length=0))
        self.pem = self.certificate.public_bytes(Encoding.PEM).decode()

    def server(self, directory: Path, *names: x509.GeneralName, ask: bytes = b"") -> ssl.SSLContext:
        """A server for these names; asks for a client certificate of the root `ask` (DER)."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
        leaf = self._sign(name, key, x509.BasicConstraints(ca=False, path_length=None), *names)
        path = directory / "server.pem"
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(leaf.public_bytes(Encoding.PEM) + secret)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        if ask:
            context.load_verify_locations(cadata=ask)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: Any) -> x509.Certificate:
        now = datetime.now(UTC)
        basic, *names = extensions
        builder = x509.CertificateBuilder(
            issuer_name=self.name,
            subject_name=subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - timedelta(minutes=1),
            not_valid_after=now + timedelta(hours=1),
        ).add_extension(basic, critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())


LOOPBACK_NAME = x509.IPAddress(ip_address("127.0.0.1"))


async def test_an_endpoint_with_a_certificate_from_a_file_is_known_by_its_host(tmp_path: Path, broker: Broker) -> None:
    files = FileCa()
    source = FixedIdentity(RELAY)
    target = Target(tls=files.server(tmp_path, LOOPBACK_NAME, ask=PROVIDER.root))
    async with serving(target), relay(tmp_path / "state", broker.port, exits=exits(source)) as running:
        await serve(running, route(endpoint(target, ca_bundle=files.pem)))
        source.replace(PROVIDER.identity("/relay/edge-1"))
        await publish_all(broker.port, numbered(range(10)))
        await until(lambda: target.ids == list(range(10)))


@pytest.mark.parametrize(
    ("right_root", "names", "told"),
    [
        (False, [LOOPBACK_NAME], "certificate verify failed"),
        (True, [x509.DNSName("a.test")], "not valid for '127.0.0.1'"),
    ],
    ids=["other root", "other host"],
)
async def test_another_certificate_from_a_file_is_refused(
    tmp_path: Path, broker: Broker, right_root: bool, names: list[x509.GeneralName], told: str
) -> None:
    files = FileCa()
    roots = files.pem if right_root else FileCa().pem
    async with (
        serving(Target(tls=files.server(tmp_path, *names))) as target,
        relay(tmp_path / "state", broker.port, exits=exits()) as running,
    ):
        await serve(running, route(endpoint(target, ca_bundle=roots)))
        await publish_all(broker.port, numbered(range(10)))
        await until(lambda: problem(running))
        assert told in problem(running)
        assert target.bodies == []


async def test_roots_that_are_none_hold_up_their_own_target_alone(tmp_path: Path, broker: Broker) -> None:
    nonsense = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
    async with serving(at_consumer()) as target, relay(tmp_path / "state", broker.port, exits=exits()) as running:
        bad: Endpoint = endpoint(target, "bad", ca_bundle=nonsense)
        await serve(running, route(endpoint(target), bad, trust_domain="consumer.test"))
        await publish_all(broker.port, numbered(range(10)))
        await until(lambda: target.ids == list(range(10)))
        await until(lambda: "caBundle" in problem(running, LaneKey("route-1", "bad")))
