"""Whom the agent takes for its broker and its issuer, and what it does with answers that are none."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from crds.errors import Retryable
from edge_resource_manager.agent.adapters.issuer import MAX_ANSWER, HttpIssuer
from edge_resource_manager.agent.adapters.link import Link
from spire.domain.authorization import exactly
from spire.identity import FixedIdentity
from spire.tls import client_context
from tests.edge_resource_manager.agent.peers import NODE, UEID, ScriptedIssuer, Station
from tests.spire.pki import Ca

CA, FOREIGN = Ca.of("provider.test"), Ca.of("consumer.test")


def context() -> ssl.SSLContext:
    """Of an agent that expects the issuer of its own trust domain."""
    own = FixedIdentity(CA.identity(f"/agent/{NODE}", knows=[FOREIGN]))
    return client_context(own, authorize=exactly(CA.trust_domain.spiffe_id("issuer")))


async def test_the_issuer_is_asked_and_sees_who_asks() -> None:
    async with (
        ScriptedIssuer().serve(CA.identity("/issuer")) as issuer,
        HttpIssuer(issuer.url, context=context()) as http,
    ):
        assert (await http.challenge(UEID)).body == b"\xa0challenge"
        issuer.answers["evidence"] = (403, b"\xa0refused")
        answer = await http.evidence(UEID, b"\x82")
    assert (answer.status, answer.body) == (403, b"\xa0refused")
    assert [str(call[3]) for call in issuer.calls] == [f"spiffe://provider.test/agent/{NODE}"] * 2


@pytest.mark.parametrize(
    "impostor",
    [CA.identity("/manager/rear-gateway"), FOREIGN.identity("/issuer", knows=[CA])],
    ids=["other", "foreign"],
)
async def test_nobody_else_is_the_issuer(impostor: object) -> None:
    async with ScriptedIssuer().serve(impostor) as issuer, HttpIssuer(issuer.url, context=context()) as http:  # type: ignore[arg-type]  # parametrized
        with pytest.raises(Retryable, match=r"issuer: .*expected spiffe://provider\.test/issuer"):
            await http.challenge(UEID)
    assert issuer.calls == []


async def test_an_answer_that_is_too_long_is_none() -> None:
    async with (
        ScriptedIssuer().serve(CA.identity("/issuer")) as issuer,
        HttpIssuer(issuer.url, context=context()) as http,
    ):
        issuer.answers["challenge"] = (200, bytes(MAX_ANSWER))
        assert len((await http.challenge(UEID)).body) == MAX_ANSWER
        issuer.answers["challenge"] = (200, bytes(MAX_ANSWER + 1))
        with pytest.raises(Retryable, match="issuer: 200 with"):
            await http.challenge(UEID)


async def test_an_issuer_that_is_away_is_tried_later() -> None:
    async with HttpIssuer("https://127.0.0.1:1", context=context()) as http:
        with pytest.raises(Retryable, match="issuer: "):
            await http.challenge(UEID)


@pytest.mark.broker
async def test_a_broker_of_another_node_is_not_connected_to(station: Station) -> None:
    identity = FixedIdentity(station.workload("agent"))
    domain = station.ca.trust_domain

    async def connects(node: str) -> bool:
        up = asyncio.Event()
        link = Link(
            name="data",
            url=station.broker.url,
            client_id="x",
            context=client_context(identity, authorize=exactly(domain.spiffe_id("broker", node))),
            topics=("attest/#",),
            receive=lambda _topic, _payload: None,
            on_change=lambda connected: up.set() if connected else None,
        )
        async with link:
            try:
                async with asyncio.timeout(3):
                    await up.wait()
            except TimeoutError:
                return False
            return True

    assert await connects(NODE)
    assert not await connects("edge-2")
