"""What the Kafka target keeps apart while its cluster is away: the cluster itself is in `tests/relay/kafka`."""

import asyncio
from dataclasses import replace

import pytest

from crds.models.addresses import Kafka as Address
from crds.models.delivery import Endpoint
from router_manager.domain.batching import Failure
from router_manager.domain.table import LaneKey, Table, Way, ways
from router_manager.relay.kafka.commands import Commands
from router_manager.relay.targets.base import Batch
from tests.relay.kafka.support import clusters, endpoint, exits
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


async def nobody(topic: str, payload: bytes) -> bool:
    raise AssertionError(f"{topic}: {payload!r}")


async def test_a_route_without_commands_costs_nothing_where_commands_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    address = Address(bootstrap_servers=(NOBODY,), topic="readings", commands_from="commands")
    routes = [route(endpoint(NOBODY, "topic"), uid=f"route-{number}") for number in range(20)]
    commands = Commands(clusters(NOBODY), node="edge-1", send=nobody)
    looked_at: list[str] = []

    def looking(served: Table) -> dict[LaneKey, Way]:
        looked_at.extend(each.uid for each in served.routes)
        return ways(served)

    monkeypatch.setattr("router_manager.relay.kafka.commands.ways", looking)
    commands.serve(table(*routes, route(Endpoint(name="kafka", kafka=address), uid="commanding")))
    running = asyncio.create_task(commands.run())
    await until(lambda: looked_at)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert looked_at == ["commanding"]
