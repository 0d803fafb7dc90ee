"""The stand-in for KubeEdge's router behaves as clients of that router have to expect."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import web

from crds.models.base import OwnerReference
from router_manager.domain.kubeedge import Subscription, objects
from scripts.testbed.broker import Broker
from scripts.testbed.cluster import Cluster
from scripts.testbed.processes import Child
from tests.relay.support import LIMIT_SECONDS, publish_all

pytestmark = [pytest.mark.control_plane, pytest.mark.broker]

ROOT = Path(__file__).resolve().parents[2]
OWNER = OwnerReference(api_version="v1", kind="Namespace", name="none", uid="none")


@dataclass
class Hook:
    """A web server that fails each request, and a node with a broker."""

    cluster: Cluster
    broker: Broker
    namespace: str
    node: str = field(default_factory=lambda: f"edge-{uuid4().hex[:8]}")
    bodies: dict[str, list[bytes]] = field(default_factory=dict)
    port: int = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.bodies.setdefault(request.path, []).append(await request.read())
        return web.Response(status=500)

    def rule(self, topic: str, path: str) -> str:
        """Make a Rule about a topic; its name."""
        url = f"http://127.0.0.1:{self.port}"
        subscription = Subscription(self.node, topic)
        made = [
            each.model_copy(update={"metadata": each.metadata.model_copy(update={"owner_references": ()})}).manifest()
            for each in objects(subscription, namespace=self.namespace, owner=OWNER, inlet=url, token=path)
        ]
        self.cluster.apply(made)
        return str(made[-1]["metadata"]["name"])

    def path(self, rule: str) -> str:
        return f"/apis/rules.kubeedge.io/v1/namespaces/{self.namespace}/rules/{rule}"

    async def publish(self, topic: str, *payloads: bytes) -> None:
        await publish_all(self.broker.port, [(topic, payload) for payload in payloads])

    async def flows(self, topic: str, path: str) -> None:
        """Publish until something comes."""
        before = len(self.bodies.get(path, ()))

        async def once() -> bool:
            await self.publish(f"{self.namespace}/{topic}", b"probe")
            return len(self.bodies.get(path, ())) > before

        await eventually(once)


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LIMIT_SECONDS):
        while not await holds():  # noqa: ASYNC110 - what is waited for is of other processes
            await asyncio.sleep(0.1)


@pytest.fixture
async def hook(cluster: Cluster, broker: Broker, namespace: str) -> AsyncIterator[Hook]:
    made = Hook(cluster, broker, namespace)
    app = web.Application()
    app.router.add_post("/{path}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@asynccontextmanager
async def router(hook: Hook, directory: Path) -> AsyncIterator[Child]:
    command: list[str | Path] = [sys.executable, "-m", "scripts.testbed.kubeedge_router"]
    command += ["--kubeconfig", hook.cluster.kubeconfig, "--node", hook.node, "--broker", hook.broker.url]
    with Child(name="kubeedge", command=command, directory=ROOT, logs=directory) as child:
        yield child


async def test_each_message_is_posted_once_whatever_is_answered_and_of_its_own_topic_alone(
    hook: Hook, tmp_path: Path
) -> None:
    hook.cluster.add_node(hook.node)
    hook.rule("board/a", "a")
    async with router(hook, tmp_path):
        await hook.flows("board/a", "/a")
        sent = {b"%d" % number for number in range(20)}
        await hook.publish(f"{hook.namespace}/board/a/b", b"longer")
        await hook.publish("board/a", b"shorter")
        await hook.publish(f"{hook.namespace}/board/a", *sent)

        async def came() -> bool:
            return sent <= set(hook.bodies["/a"])

        await eventually(came)
        found = [body for body in hook.bodies["/a"] if body != b"probe"]
        assert sorted(found) == sorted(sent)


async def test_changes_are_not_seen_and_the_end_of_either_of_two_rules_ends_the_topic(
    hook: Hook, tmp_path: Path
) -> None:
    hook.cluster.add_node(hook.node)
    first = hook.rule("board/a", "a")
    hook.rule("board/clock", "clock")
    async with router(hook, tmp_path):
        await hook.flows("board/a", "/a")
        body = {"spec": {"targetResource": {"resource": f"http://127.0.0.1:{hook.port}/changed"}}}
        hook.cluster.api.request("PATCH", hook.path(first), body=body, content_type="application/merge-patch+json")
        await hook.flows("board/a", "/a")
        assert "/changed" not in hook.bodies
        hook.rule("board/a", "second")
        await hook.flows("board/a", "/second")
        hook.cluster.api.request("DELETE", hook.path(first))

        async def silent() -> bool:
            before = len(hook.bodies["/second"])
            await hook.publish(f"{hook.namespace}/board/a", b"probe")
            await hook.flows("board/clock", "/clock")
            return len(hook.bodies["/second"]) == before

        await eventually(silent)


async def test_a_rule_that_came_while_the_node_was_away_is_never_heard_of(hook: Hook, tmp_path: Path) -> None:
    hook.cluster.add_node(hook.node, ready=False)
    hook.rule("board/early", "early")
    async with router(hook, tmp_path) as child:
        await asyncio.to_thread(child.wait_until, lambda: "board/early" in child.tail(), what="the first Rule")
        await asyncio.to_thread(hook.cluster.set_node_ready, hook.node, ready=True)
        tries = 0

        async def late() -> bool:
            nonlocal tries
            tries += 1
            hook.rule(f"board/late-{tries}", "late")
            await asyncio.sleep(0.2)
            await hook.publish(f"{hook.namespace}/board/early", b"early")
            await hook.publish(f"{hook.namespace}/board/late-{tries}", b"late")
            return "/late" in hook.bodies

        await eventually(late)
    assert "/early" not in hook.bodies
