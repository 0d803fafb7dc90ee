"""A target whose certificate changes under load: to another right one, and to one that proves somebody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path

import orjson

from scripts.testbed.processes import accepts, free_port
from spire.domain.authorization import under
from spire.identity import FixedIdentity
from spire.tls import server_context
from tests.faults.site import BATCH, ROUNDS, TOPICS, Relay, moments
from tests.relay.listener.devices import NODE, OWN, UEID, Device, device, granting
from tests.relay.support import Target, endpoint, route, serving, table, until
from tests.relay.test_broker_identity import workload_api


def target(port: int, path: str) -> Target:
    """With a certificate that was signed just now."""
    tls = server_context(FixedIdentity(OWN.identity(path)), authorize=under("/relay/"))
    return Target(port=port, tls=tls)


@asynccontextmanager
async def publishing(port: int, ids: dict[int, int]) -> AsyncIterator[Device]:
    """A device that has an identity; `ids` are by what paho calls the messages."""
    found = Device(port, identity=device(), reconnect=True)

    async def publish() -> None:
        for number in count():
            ids[found.publish(TOPICS[0], orjson.dumps({"id": number}))] = number
            await asyncio.sleep(0.002)

    assert await found.connect() == "Success"
    task = asyncio.create_task(publish())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.to_thread(found.stop)


async def test_only_the_right_certificate_gets_readings_and_gets_all_of_them(tmp_path: Path) -> None:
    port = free_port()
    arrived: list[int] = []
    ids: dict[int, int] = {}
    async with workload_api(tmp_path / "api", OWN.identity(f"/relay/{NODE}")) as (socket, _):
        to_target = table(route(endpoint(f"https://127.0.0.1:{port}/"), topics=TOPICS))
        grants = granting(**{UEID: TOPICS})
        relay = Relay(
            tmp_path,
            to_target,
            logs=tmp_path,
            grants=grants,
            identity=("--identity-socket", str(socket)),
        )
        try:
            await until(partial(accepts, relay.port), what="the listener")
            async with publishing(relay.port, ids) as found:
                for refusals, moment in enumerate(moments("certificate")):
                    async with serving(target(port, "/manager/somebody-else")) as wrong:
                        await until(partial(relay.tells, "expected spiffe", times=refusals + 1), what="a refusal")
                        await asyncio.sleep(moment)
                    assert not wrong.bodies
                    async with serving(target(port, "/endpoint/default/sink")) as right:
                        await until(lambda right=right: len(right.ids) > 200, what="readings for the right one")  # type: ignore[misc] # mypy infers no default
                        await asyncio.sleep(moment)
                    arrived += right.ids
            owed = {ids[mid] for mid, answer in found.acknowledged.items() if answer == "Success"}
            async with serving(target(port, "/endpoint/default/sink")) as right:
                await until(lambda: owed <= {*arrived, *right.ids}, what="all that was acknowledged")
                arrived += right.ids
        finally:
            relay.kill()
    copies = len(arrived) - len(set(arrived))
    assert copies <= ROUNDS * BATCH
