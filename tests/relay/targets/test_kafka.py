"""What the Kafka target keeps apart while its cluster is away: the cluster itself is in `tests/relay/kafka`."""

import asyncio
from dataclasses import replace

from router_manager.domain.batching import Failure
from router_manager.domain.table import LaneKey, ways
from router_manager.relay.targets.base import Batch
from tests.relay.kafka.support import endpoint, exits
from tests.relay.support import record, route, table, until

NOBODY = "127.0.0.1:1"


async def test_a_replay_leaves_what_its_lane_has_in_flight_alone() -> None:
    way = ways(table(route(endpoint(NOBODY, "topic"))))[LaneKey("route-1", "kafka")]
    live = Batch(way=way, records=[record(1)], parts=[b"1"], key="live")
    to = exits(NOBODY, timeout_seconds=0.5)
    waiting = asyncio.create_task(to.send(live))
    await until(lambda: len(to._flights) == 1)
    answers = await asyncio.gather(to.send(replace(live, key="again", replayed=True)), waiting)
    assert all(isinstance(answer, Failure) and "Purged" not in answer.reason for answer in answers), answers
    assert {flight.key for flight in to._flights.values()} == {"live", "again"}
    await to.close()
