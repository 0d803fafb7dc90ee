"""The broker of deploy/broker, with accounts as the agent makes them: who may what, and who is kept out."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from crds.errors import Retryable
from crds.models.leafdevice import LeafDevice
from edge_resource_manager.agent.adapters.dynamic_security import RESPONSE, DynamicSecurity
from edge_resource_manager.agent.adapters.link import Link
from edge_resource_manager.agent.domain.accounts import Access, Admit, Amend, Right, Withdraw, plan, steps
from router_manager.relay.mqtt.client import Session
from spire.domain.authorization import under
from spire.identity import FixedIdentity, Identity
from spire.tls import client_context
from tests.edge_resource_manager.agent.leaves import AGENT, NOW, leaf, trust
from tests.edge_resource_manager.agent.peers import NODE, OTHER_UEID, UEID, Client, Station
from tests.relay.support import until
from tests.relay.test_session import Inbox, open_session, running
from tests.spire.pki import Ca, bundles_of

pytestmark = pytest.mark.broker

DEVICES = (
    leaf("a", "sensor/a", ueid=UEID, believed=trust()),
    leaf("b", "sensor/b", ueid=OTHER_UEID, believed=trust()),
    leaf("v", "sensor/v", believed=trust("GatewayVouched")),
)


@asynccontextmanager
async def administrator(station: Station) -> AsyncIterator[DynamicSecurity]:
    """The accounts of a station's broker, as its agent reaches them."""
    up = asyncio.Event()
    security = DynamicSecurity(lambda topic, payload: link.send(topic, payload, qos=0))
    link = Link(
        name="data",
        url=station.broker.url,
        client_id="any",
        context=client_context(FixedIdentity(station.workload("agent")), authorize=under("/broker")),
        topics=(RESPONSE,),
        receive=lambda _, payload: security.receive(payload),
        on_change=lambda connected: up.set() if connected else security.lost(),
    )
    async with link:
        async with asyncio.timeout(15):
            await up.wait()
        yield security


async def settle(station: Station, devices: Sequence[LeafDevice] = DEVICES) -> None:
    """Give the broker the accounts that these devices should have."""
    async with administrator(station) as security:
        wanted = plan(devices, node=NODE, agent=AGENT, distrusted={}, now=NOW).accounts
        await security.apply(steps(await security.held(), wanted))
        assert steps(await security.held(), wanted) == []


async def test_a_device_speaks_and_hears_on_its_own_topics_only(station: Station) -> None:
    await settle(station)

    def check() -> None:
        with station.client(station.device()) as device:
            for topic in ("sensor/a", f"device/{UEID}/state", f"attest/{UEID}/hello"):
                assert device.may_publish(topic), topic
            others = ("sensor/b", "sensor/v", f"device/{OTHER_UEID}/x", f"attest/{OTHER_UEID}/svid", "$SYS/x")
            for topic in (*others, "$CONTROL/dynamic-security/v1"):
                assert not device.may_publish(topic), topic
            for topic in (f"device/{UEID}/#", f"attest/{UEID}/challenge"):
                assert device.may_subscribe(topic), topic
            for topic in ("#", "sensor/#", "sensor/a", f"attest/{OTHER_UEID}/#", "attest/+/svid", "$SYS/#"):
                assert not device.may_subscribe(topic), topic

    await asyncio.to_thread(check)


async def test_the_relay_hears_readings_and_no_attestation(station: Station) -> None:
    await settle(station)

    def check() -> None:
        relay_svid = station.workload("relay").svid
        with station.client(relay_svid) as relay, station.client(station.device()) as device:
            assert relay.may_subscribe("#")
            assert device.may_publish(f"attest/{UEID}/hello")
            assert device.publish("sensor/a", b"21 degrees") == 0
            assert relay.message() == ("sensor/a", b"21 degrees")
            assert not relay.may_publish("sensor/a")

    await asyncio.to_thread(check)


async def test_the_mapper_publishes_for_vouched_devices_only(station: Station) -> None:
    await settle(station)

    def check() -> None:
        with station.client(station.workload("mapper").svid) as mapper:
            assert mapper.may_publish("sensor/v")
            assert not mapper.may_publish("sensor/a")
            assert not mapper.may_subscribe("#")

    await asyncio.to_thread(check)


async def test_an_svid_of_the_cluster_without_an_account_may_nothing(station: Station) -> None:
    await settle(station, ())

    def check() -> None:
        endpoint = station.ca.svid("/endpoint/shop/web", common_name="endpoint.shop.web")
        for svid in (station.device(), endpoint):
            with station.client(svid) as client:
                assert not client.may_publish("sensor/a")
                assert not client.may_subscribe(f"device/{UEID}/#")

    await asyncio.to_thread(check)


async def test_a_foreign_cluster_cannot_name_our_device_our_agent_or_anybody(station: Station) -> None:
    await settle(station)

    def check() -> None:
        ours = station.device()
        with station.client(ours) as device:
            assert device.answered()[0] == 0
        foreign_agent = station.foreign.svid(f"/agent/{NODE}", common_name=f"agent.{NODE}")
        for svid in (station.device(ca=station.foreign), foreign_agent):
            for url in (station.broker.url, station.broker.agent_onboarding_url):
                refused = Client(url, bundles=bundles_of(station.ca, station.foreign), svid=svid)
                with refused:
                    refused.cut()
                    assert refused.connected.empty()

    await asyncio.to_thread(check)


async def test_a_certificate_is_needed_where_data_is(station: Station) -> None:
    def check() -> None:
        for url in (station.broker.url, station.broker.agent_onboarding_url):
            with Client(url, bundles=bundles_of(station.ca)) as stranger:
                stranger.cut()
                assert stranger.connected.empty()

    await asyncio.to_thread(check)


async def test_without_an_identity_there_is_attestation_of_the_own_ueid_and_nothing_else(station: Station) -> None:
    def check() -> None:
        agent = Client(
            station.broker.agent_onboarding_url, bundles=bundles_of(station.ca), svid=station.workload("agent").svid
        )
        with agent, station.client(client_id=UEID) as device, station.client(client_id=OTHER_UEID) as other:
            assert agent.may_subscribe("attest/#")
            for topic in (f"attest/{UEID}/challenge", f"attest/{UEID}/svid"):
                device.may_subscribe(topic)
            # The broker grants what it does not deliver: an access list is asked at each message only.
            for topic in ("#", f"attest/{UEID}/#", f"attest/{OTHER_UEID}/#", "attest/+/challenge", "$SYS/#"):
                device.may_subscribe(topic)
            for topic in (f"attest/{UEID}/hello", f"attest/{UEID}/evidence"):
                assert device.publish(topic, b"mine") == 0
                assert agent.message() == (topic, b"mine")
            for topic in (f"attest/{UEID}/svid", f"attest/{OTHER_UEID}/hello", "sensor/a", f"device/{UEID}/x"):
                assert not device.may_publish(topic), topic
            assert other.publish(f"attest/{OTHER_UEID}/hello") == 0
            assert agent.publish(f"attest/{OTHER_UEID}/svid", b"not yours") == 0
            assert agent.publish(f"attest/{UEID}/svid", b"yours") == 0
            assert device.message() == (f"attest/{UEID}/svid", b"yours")

    await asyncio.to_thread(check)


@pytest.mark.parametrize("client_id", ["+", "#", f"{UEID}/+"])
async def test_a_client_id_is_no_pattern(station: Station, client_id: str) -> None:
    def check() -> None:
        agent = Client(
            station.broker.agent_onboarding_url, bundles=bundles_of(station.ca), svid=station.workload("agent").svid
        )
        with agent, station.client(client_id=client_id) as stranger:
            stranger.may_subscribe("attest/+/svid")
            assert not stranger.may_publish(f"attest/{UEID}/hello")
            agent.publish(f"attest/{UEID}/svid", b"of a device")
            assert stranger.publish("sensor/a") != 0  # what was sent before would have come by now
            assert stranger.messages.empty()

    await asyncio.to_thread(check)


async def test_nobody_takes_over_the_session_of_somebody_else(station: Station) -> None:
    """On a broker with one name for all, who claims the relay's client id gets its session and all that waits in it."""
    await settle(station)

    def check() -> None:
        with station.client(station.workload("relay").svid, clean=False) as relay:
            assert relay.may_subscribe("sensor/#")
            for thief in (
                station.client(station.device(), client_id=f"relay.{NODE}", clean=False),
                station.client(client_id=f"relay.{NODE}", clean=False),
                station.client(client_id=UEID, clean=False),
            ):
                with thief:
                    assert thief.answered() == (0, False)
            with station.client(station.device()) as device:
                assert device.publish("sensor/a", b"for the relay") == 0
                assert relay.message() == ("sensor/a", b"for the relay")
                assert relay.gone.empty()
                assert device.gone.empty()

    await asyncio.to_thread(check)


async def test_a_device_without_account_is_cut_stays_out_and_comes_back_with_one(station: Station) -> None:
    await settle(station)
    device_svid = station.device()
    with station.client(device_svid, clean=False) as device:
        assert await asyncio.to_thread(device.may_subscribe, f"device/{UEID}/#")
        async with administrator(station) as security:
            await security.apply([Withdraw(UEID)])
            await asyncio.to_thread(device.cut)
    wait = leaf("b", f"device/{UEID}/news", ueid=OTHER_UEID)  # somebody who may publish what the device subscribed to
    async with administrator(station) as security:
        right = frozenset({Right(Access.SEND, f"device/{UEID}/news")})
        await security.apply([Amend(wait.spec.ueid or "", right)])

        def stays_out() -> None:
            with station.client(device_svid, clean=False) as again, station.client(station.device(OTHER_UEID)) as other:
                assert again.answered() == (0, True)
                assert not again.may_publish("sensor/a")
                assert not again.may_subscribe(f"device/{UEID}/#")
                other.publish(f"device/{UEID}/news", b"to the session's subscription")
                assert not again.may_publish("sensor/a")  # by now it would have come
                assert again.messages.empty()

        await asyncio.to_thread(stays_out)
        await security.apply([Admit(UEID, frozenset({Right(Access.SEND, "sensor/a")}))])
    with station.client(device_svid) as back:
        assert await asyncio.to_thread(back.may_publish, "sensor/a")


async def test_accounts_survive_a_restart_and_a_crash_of_the_broker(station: Station) -> None:
    await settle(station)
    async with administrator(station) as security:
        before = await security.held()
    for end in (station.broker.stop, station.broker.kill):
        end()
        station.broker.restart()
        async with administrator(station) as security:
            assert await security.held() == before


async def test_accounts_that_a_crash_left_unreadable_begin_with_the_agents(station: Station) -> None:
    await settle(station)
    station.broker.kill()
    (station.directory / "broker" / "dynamic-security.json").write_bytes(b'{"clients": [{"username": "\xff')
    station.broker.restart()
    async with administrator(station) as security:
        assert set(await security.held()) == {f"agent.{NODE}"}
    await settle(station)


async def test_accounts_that_somebody_changed_are_not_in_order(station: Station) -> None:
    await settle(station)
    async with administrator(station) as security:
        await security._ask([{"command": "disableClient", "username": UEID}])
        assert (await security.held())[UEID] is None
    await settle(station)


async def test_a_command_that_fails_is_told_and_one_without_answer_is_given_up(station: Station) -> None:
    async with administrator(station) as security:
        await security.apply([Withdraw(UEID)])  # not there: that is what was wanted
        with pytest.raises(Retryable, match=f"modifyRole {UEID}: Role does not exist"):
            await security.apply([Amend(UEID, frozenset())])
    silent = DynamicSecurity(lambda _topic, _payload: None)
    asking = asyncio.create_task(silent.held())
    await asyncio.sleep(0)
    silent.receive(b"\xff no JSON")
    silent.receive(b'{"responses": [{"command": "listClients", "correlationData": "of somebody else"}]}')
    silent.lost()
    with pytest.raises(Retryable, match="connection ended"):
        await asking


async def test_devices_that_come_and_go_under_load_do_not_harm_the_broker(station: Station) -> None:
    await settle(station)
    stop = threading.Event()
    cuts = 0

    def publish() -> None:
        nonlocal cuts
        while not stop.is_set():
            with station.client(station.device(), clean=False) as device:
                while device.gone.empty() and not stop.is_set():
                    device.mqtt.publish("sensor/a", b"x" * 64, qos=1)
                    time.sleep(0.0005)
                cuts += not device.gone.empty()

    publishing = asyncio.create_task(asyncio.to_thread(publish))
    pid = station.broker.pid
    async with administrator(station) as security:
        for _ in range(500):
            await security.apply([Withdraw(UEID)])
            await security.apply([Admit(UEID, frozenset({Right(Access.SEND, "sensor/a")}))])
            if cuts > 4:
                break
            await asyncio.sleep(0.02)
        stop.set()
        await publishing
        assert UEID in await security.held()
    assert station.broker.pid == pid
    assert cuts > 4


async def test_a_renewed_certificate_is_shown_after_sighup_and_cuts_nobody(station: Station) -> None:
    await settle(station)
    with station.client(station.device()) as device:
        device.answered()
        successor = Ca(station.ca.trust_domain)
        station.certify(successor)
        station.broker.reload()

        def shown_by_successor() -> bool:
            with Client(station.broker.url, bundles=bundles_of(successor), svid=station.device(OTHER_UEID)) as client:
                return client.answered()[0] == 0

        for _ in range(50):
            try:
                assert await asyncio.to_thread(shown_by_successor)
                break
            except OSError:
                await asyncio.sleep(0.05)  # the signal is on its way
        else:
            raise AssertionError("still the old certificate")
        assert await asyncio.to_thread(device.may_publish, "sensor/a")
        assert device.gone.empty()


async def test_relays_that_are_away_when_the_certificate_is_renewed_may_come_back(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it frees is overwritten at once: to read it afterwards kills it, where otherwise luck decides.
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
    monkeypatch.setenv("MALLOC_PERTURB_", "165")
    await asyncio.to_thread(station.broker.restart)

    def session(node: str) -> Session:
        svid = station.ca.svid(f"/relay/{node}", common_name=f"relay.{node}")
        source = FixedIdentity(Identity(svid=svid, bundles=bundles_of(station.ca)))
        context = client_context(source, authorize=under("/broker"))
        return open_session(station.broker.port, Inbox(), tls=context)

    async def visit(each: Session) -> None:
        async with running(each):  # whose end waits for the broker's: it knows before it gets the signal
            await until(lambda: each.connected)

    sessions = [session(f"edge-{number}") for number in range(16)]
    with station.client(station.device()) as bystander:
        async with asyncio.timeout(30):
            for _ in range(3):
                await asyncio.gather(*map(visit, sessions))
                station.broker.reload()  # done before the next connection is
                await asyncio.gather(*map(visit, sessions))
                await asyncio.sleep(1.1)  # it looks for expired sessions once a second
        await asyncio.to_thread(bystander.publish, "sensor/a")
        assert bystander.gone.empty()
