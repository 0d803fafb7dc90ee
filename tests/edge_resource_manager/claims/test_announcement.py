from datetime import timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.conditions import timestamp
from crds.errors import InvalidField
from crds.models.base import ObjectMeta
from crds.models.fluidos import KnownCluster, KnownClusterSpec, KnownClusterStatus, NodeIdentity
from edge_resource_manager.domain.announcement import (
    LIFETIME,
    MANAGED_BY,
    MAX_DATAGRAM,
    MAX_DISCOVERED,
    Create,
    Ignore,
    Move,
    Refresh,
    decode,
    encode,
    expired,
    hear,
)
from tests.edge_resource_manager.claims.samples import NOW

OWN = NodeIdentity(domain="fluidos.eu", node_id="consumer1", ip="192.0.2.9:30000")
OTHER = NodeIdentity(domain="fluidos.eu", node_id="4ahrqttvng", ip="172.19.0.4:30001")


def cluster(
    node: str = "4ahrqttvng", *, address: str = OTHER.ip, age: float = 0.0, by_hand: bool = False
) -> KnownCluster:
    updated = NOW - timedelta(seconds=age)
    return KnownCluster(
        metadata=ObjectMeta(
            name=f"knowncluster-{node}", namespace="fluidos", labels={} if by_hand else dict(MANAGED_BY)
        ),
        spec=KnownClusterSpec(address=address),
        status=None
        if by_hand
        else KnownClusterStatus(expiration_time=timestamp(updated + LIFETIME), last_update_time=timestamp(updated)),
    )


def known(*clusters: KnownCluster) -> dict[str, KnownCluster]:
    return {each.metadata.name: each for each in clusters}


def test_what_fluidos_sends_is_read() -> None:
    sent = b'{"domain":"fluidos.eu","nodeID":"4ahrqttvng","ip":"172.19.0.4:30001"}'
    assert decode(sent) == OTHER
    assert orjson.loads(encode(OTHER)) == orjson.loads(sent)


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"hello",
        b"[]",
        b'{"domain":"fluidos.eu","nodeID":"x"}',
        b'{"domain":"fluidos.eu","nodeID":"../x","ip":"192.0.2.1:80"}',
        b'{"domain":"fluidos.eu","nodeID":"x","ip":"user@host:80"}',
        b'{"domain":"fluidos.eu","nodeID":"x","ip":"192.0.2.1:80/admin"}',
        b'{"domain":"fluidos.eu","nodeID":7,"ip":"192.0.2.1:80"}',
        b'{"domain":"' + b"x" * MAX_DATAGRAM + b'","nodeID":"x","ip":"192.0.2.1:80"}',
    ],
)
def test_what_is_no_announcement_is_refused(datagram: bytes) -> None:
    with pytest.raises(InvalidField):
        decode(datagram)


@given(st.binary(max_size=1500))
def test_no_datagram_does_more_than_be_refused(datagram: bytes) -> None:
    try:
        decode(datagram)
    except InvalidField:
        return


def test_a_new_node_becomes_a_known_cluster_for_ten_seconds() -> None:
    heard = hear(OTHER, own=OWN, known={}, now=NOW)
    assert heard == Create(cluster())
    assert isinstance(heard, Create)
    assert heard.cluster.status is not None
    assert heard.cluster.status.expiration_time == timestamp(NOW + timedelta(seconds=10))


def test_own_announcements_are_passed_over() -> None:
    assert hear(OWN, own=OWN, known={}, now=NOW) == Ignore("own")
    same_address = OTHER.model_copy(update={"ip": OWN.ip})
    assert hear(same_address, own=OWN, known={}, now=NOW) == Ignore("own")


def test_a_node_that_is_heard_again_is_refreshed_but_not_at_every_datagram_of_a_flood() -> None:
    assert isinstance(hear(OTHER, own=OWN, known=known(cluster(age=5)), now=NOW), Refresh)
    assert hear(OTHER, own=OWN, known=known(cluster(age=1)), now=NOW) == Ignore("fresh")


def test_a_node_that_moved_gets_its_new_address() -> None:
    heard = hear(OTHER, own=OWN, known=known(cluster(address="172.19.0.9:30001", age=1)), now=NOW)
    assert isinstance(heard, Move)
    assert heard.cluster.spec.address == OTHER.ip


def test_what_was_made_by_hand_is_neither_changed_nor_removed() -> None:
    by_hand = cluster(address="192.0.2.77:1", by_hand=True)
    assert hear(OTHER, own=OWN, known=known(by_hand), now=NOW) == Ignore("by hand")
    assert expired([by_hand], now=NOW + timedelta(days=1)) == ()


def test_strangers_cannot_fill_the_cluster() -> None:
    full = known(*(cluster(f"node{n}") for n in range(MAX_DISCOVERED)))
    assert hear(OTHER, own=OWN, known=full, now=NOW) == Ignore("full")
    assert isinstance(hear(OTHER, own=OWN, known={**full, **known(cluster(age=5))}, now=NOW), Refresh)


def test_what_is_not_heard_of_any_more_expires() -> None:
    assert expired([cluster(age=9)], now=NOW) == ()
    assert expired([cluster(age=10)], now=NOW) == (cluster(age=10),)
    unwritten = cluster().model_copy(
        update={
            "status": None,
            "metadata": cluster().metadata.model_copy(update={"creation_timestamp": timestamp(NOW)}),
        }
    )
    assert expired([unwritten], now=NOW) == ()
    assert expired([unwritten], now=NOW + LIFETIME) == (unwritten,)
