"""What strangers can hold open, and what honest ones do not notice."""

import asyncio
import socket
import ssl
from contextlib import suppress

from cryptography import x509

from scripts.testbed.cluster import Cluster
from spire.domain.authorization import any_known
from spire.identity import FixedIdentity
from spire.tls import client_context
from tests.edge_resource_manager.gateway.conftest import Provider, eventually, running
from tests.edge_resource_manager.gateway.parties import (
    BUYER,
    GATEWAY,
    ONE,
    SELLER,
    TWO,
    buyer,
)


async def test_handshakes_that_never_end_take_no_place_from_honest_ones(secured: Provider, one: Provider) -> None:
    secured.gateway.guard.max_handshakes = 8
    host, port = secured.url.removeprefix("https://").split("/")[0].split(":")
    slow = [await asyncio.open_connection(host, int(port)) for _ in range(40)]
    for number in range(5):
        assert (await secured.to(buyer(ONE)).get("/openapi.json")).status == 200, number

    async def ended(reader: asyncio.StreamReader) -> bool:
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(1):
                return await reader.read() == b""
        return False

    cut = [await ended(reader) for reader, _ in slow[:30]]
    assert all(cut)
    for _, writer in slow:
        writer.close()


async def test_a_handshake_has_its_time(provider_cluster: Cluster, identity: FixedIdentity) -> None:
    async with running(provider_cluster, identity=identity) as secured:
        secured.gateway.guard.handshake_seconds = 0.3
        host, port = secured.url.removeprefix("https://").split("/")[0].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\x16\x03\x01\x02\x00")  # the beginning of a ClientHello
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
        assert (await secured.to(buyer(ONE)).get("/openapi.json")).status == 200


async def test_a_rotation_under_load_drops_nothing(
    provider_cluster: Cluster, secured: Provider, identity: FixedIdentity
) -> None:
    source = buyer(ONE)
    client = secured.to(source)
    leaves: set[int] = set()
    done = 0

    async def load() -> None:
        nonlocal done
        for _ in range(100):
            async with client.http.get(f"{client.url}/flavors/sensors", ssl=client.tls) as response:
                assert response.status == 200
                await response.read()
            done += 1

    async with client.http.get(f"{client.url}/flavors/sensors/events", ssl=client.tls) as stream:
        await stream.content.readline()
        working = [asyncio.create_task(load()) for _ in range(3)]
        for number in range(1, 6):
            await eventually(lambda: done >= 50 * number, "under load")  # noqa: B023 - waited for at once
            identity.replace(SELLER.identity(GATEWAY, knows=(ONE, TWO)))
            source.replace(ONE.identity(BUYER, knows=(SELLER,)))
            # New connections show what is new.
            fresh = client_context(source, authorize=any_known())
            leaves.add(await asyncio.to_thread(_serial, client.url, fresh))
        await asyncio.gather(*working)
        secured.gateway.rear.heartbeat_seconds = 0.05
        assert await stream.content.readline()
    assert len(leaves) == 5
    assert done == 300


def _serial(url: str, context: ssl.SSLContext) -> int:
    """Of the certificate that the gateway shows."""
    host, port = url.removeprefix("https://").split("/")[0].split(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain, context.wrap_socket(plain) as secured:
        der = secured.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number
