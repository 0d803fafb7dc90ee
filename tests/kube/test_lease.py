"""Conditions move only when they change; a Lease has one holder."""

import asyncio
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from crds.conditions import Verdict, parse_timestamp, stamp, timestamp
from crds.kube.client import LEASES, Kube
from crds.kube.lease import Election, Elector, decide
from scripts.testbed.cluster import Cluster

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    ready = Verdict(type="Ready", status="True", reason="Ready")
    first = stamp([ready], before=(), generation=1, now=NOW)
    later = stamp(
        [Verdict(type="Ready", status="True", reason="StillReady")],
        before=first,
        generation=2,
        now=NOW + timedelta(hours=1),
    )
    assert later[0].last_transition_time == first[0].last_transition_time
    assert (later[0].reason, later[0].observed_generation) == ("StillReady", 2)
    flipped = stamp(
        [Verdict(type="Ready", status="False", reason="Gone")], before=later, generation=2, now=NOW + timedelta(hours=2)
    )
    assert flipped[0].last_transition_time == "2026-11-21T14:00:00Z"


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 1), max_value=datetime(9999, 1, 1)))  # noqa: DTZ001
def test_timestamps_are_read_as_they_are_written(moment: datetime) -> None:
    assert parse_timestamp(timestamp(moment)) == moment.replace(microsecond=0)


@given(st.text(max_size=40))
def test_any_text_is_a_timestamp_or_none(text: str) -> None:
    parsed = parse_timestamp(text)
    assert parsed is None or parsed.tzinfo is not None


def election(identity: str) -> Election:
    return Election(name="manager", namespace="fluidos", identity=identity, duration=15)


def test_a_lease_in_use_is_left_to_its_holder_until_it_ends() -> None:
    spec = decide(None, election=election("a"), now=NOW)
    lease = {"spec": spec}
    assert decide(lease, election=election("b"), now=NOW + timedelta(seconds=14)) is None
    taken = decide(lease, election=election("b"), now=NOW + timedelta(seconds=15))
    assert taken is not None
    assert (taken["holderIdentity"], taken["leaseTransitions"]) == ("b", 2)


def test_a_replica_that_keeps_its_name_goes_on_at_once() -> None:
    lease = {"spec": decide(None, election=election("a"), now=NOW)}
    again = decide(lease, election=election("a"), now=NOW + timedelta(seconds=1))
    assert again is not None
    assert "leaseTransitions" not in again


async def test_of_two_replicas_one_leads_and_the_other_follows_when_it_lets_go(
    cluster: Cluster, namespace: str
) -> None:
    async with await Kube.connect(kubeconfig=cluster.kubeconfig) as kube:

        def elector(identity: str) -> Elector:
            return Elector(kube, Election(name="m", namespace=namespace, identity=identity, duration=3.0, renew=0.1))

        first, second = elector("a"), elector("b")
        await asyncio.wait_for(first.acquire(), 10)
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await first.release()
        await asyncio.wait_for(waiting, 10)
        lease = await kube.request("GET", LEASES.path(namespace=namespace, name="m"))
        assert lease["spec"]["holderIdentity"] == "b"
