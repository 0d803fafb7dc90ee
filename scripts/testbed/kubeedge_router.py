"""Stands in for cloudcore and one edgecore of KubeEdge 1.23: behaves, and loses, as their router does.

- A Rule counts from when it appears. Its RuleEndpoints have to be there: else it is tried again after 5, 10, 15 and
  20 s, and then dropped without a word. Changes are not looked at, and `status` stays empty.
- The edge subscribes to `<namespace>/<topic>`, exactly. A Rule that appears while the node is away is never heard of
  there. Of two Rules about a topic of a node the later one counts, and the end of either ends the subscription.
- The edge acknowledges to its broker what the cloud does not have yet. At most `--qps` messages a second go up, those
  above wait in a queue of 1,024; while that is full nothing is read from the broker. A cut link costs a message.
- The cloud makes a POST of each message, of all at once and in no order, by a client of its own that checks no
  certificate, sends no header of ours, and keeps its connection for as long as the target does. Whatever the answer is,
  there is no second try.
- What is on its way when the process is killed is lost, and so is what is published while it is away.

Source: kubeedge/kubeedge, cloud/pkg/router, edge/pkg/eventbus, edge/pkg/edgehub.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ssl
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import paho.mqtt.client as paho
import structlog
from paho.mqtt.enums import CallbackAPIVersion

from crds.kube.client import NODES, Kind, Kube, Object
from crds.kube.process import configure_logging, run_process, until_stopped
from crds.kube.watch import Change, Gone, Key, Put, follow
from crds.models.kubeedge_rules import Rule, RuleEndpoint

log = structlog.get_logger(__name__)

QUEUE: Final = 1024
RULE_TRIES: Final = (5.0, 10.0, 15.0, 20.0)
ANSWER_SECONDS: Final = 300.0
CONNECT_SECONDS: Final = 10.0


class Router:
    """The cloud's half: which topic goes where."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.linked = asyncio.Event()
        self.targets: dict[str, str] = {}
        """URLs by topic as at the broker."""
        self.subscriptions: set[str] = set()
        """What the edge knows of."""
        self._rules: dict[Key, Rule] = {}
        self._endpoints: dict[Key, RuleEndpoint] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.changed = asyncio.Event()

    def node_seen(self, change: Change) -> None:
        """The link is there while the Node is ready."""
        if change.key[1] == self.node:
            ready = isinstance(change, Put) and _is_ready(change.obj)
            (self.linked.set if ready else self.linked.clear)()

    def endpoint_seen(self, change: Change) -> None:
        """Additions and deletions count."""
        match change:
            case Put(key, obj):
                self._endpoints.setdefault(key, RuleEndpoint.parse(obj))
            case Gone(key):
                self._endpoints.pop(key, None)

    def rule_seen(self, change: Change) -> None:
        """The same."""
        match change:
            case Put(key, obj) if key not in self._rules:
                self._rules[key] = rule = Rule.parse(obj)
                self._start(self._add(key, rule))
            case Gone(key) if key in self._rules:
                rule = self._rules.pop(key)
                if self._is_here(rule):
                    topic = _topic(key, rule)
                    self.targets.pop(topic, None)
                    self.subscriptions.discard(topic)
                    self.changed.set()
            case _:
                pass

    def forward(self, topic: str, payload: bytes) -> None:
        """A message has come up."""
        url = self.targets.get(topic)
        if url is not None and payload:
            self._start(_post(url, payload))

    async def _add(self, key: Key, rule: Rule) -> None:
        for pause in (*RULE_TRIES, None):
            ends = {(key[0], rule.spec.source), (key[0], rule.spec.target)}
            if ends <= self._endpoints.keys():
                break
            if pause is None:
                return
            await asyncio.sleep(pause)
        if self._rules.get(key) is rule and self._is_here(rule):
            topic = _topic(key, rule)
            self.targets[topic] = rule.spec.target_resource["resource"]
            if self.linked.is_set():
                self.subscriptions.add(topic)
                self.changed.set()
            log.info("took up a Rule", topic=topic, heard_at_the_edge=self.linked.is_set())

    def _is_here(self, rule: Rule) -> bool:
        return rule.spec.source_resource.get("node_name") == self.node

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Edge:
    """The edge's half: from the broker to the cloud, at a bounded rate."""

    def __init__(self, router: Router, *, qps: float, burst: float) -> None:
        self._router = router
        self._qps, self._burst = qps, burst
        self._queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(QUEUE)

    async def run(self, host: str, port: int) -> None:
        """Carry messages until cancelled."""
        loop = asyncio.get_running_loop()
        client = paho.Client(CallbackAPIVersion.VERSION2, clean_session=True)
        known: set[str] = set()

        def subscribe_anew() -> None:
            known.clear()
            self._router.changed.set()

        def connected(*_: object) -> None:
            loop.call_soon_threadsafe(subscribe_anew)

        def arrived(_client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
            # paho acknowledges when this returns: a full queue holds the broker back.
            taken = self._queue.put((message.topic, bytes(message.payload)))
            asyncio.run_coroutine_threadsafe(taken, loop).result()

        client.on_connect, client.on_message = connected, arrived
        client.reconnect_delay_set(min_delay=1, max_delay=2)
        client.connect_async(host, port, keepalive=30)
        client.loop_start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._climb())
                while True:
                    await self._router.changed.wait()
                    self._router.changed.clear()
                    wanted = set(self._router.subscriptions)
                    for topic in known - wanted:
                        client.unsubscribe(topic)
                    for topic in wanted - known:
                        client.subscribe(topic, qos=1)
                    known.clear()
                    known.update(wanted)
        finally:
            client.disconnect()

    async def _climb(self) -> None:
        tokens, at = self._burst, time.monotonic()
        while True:
            topic, payload = await self._queue.get()
            now = time.monotonic()
            tokens, at = min(self._burst, tokens + (now - at) * self._qps) - 1, now
            if tokens < 0:
                await asyncio.sleep(-tokens / self._qps)
            if not self._router.linked.is_set():
                await self._router.linked.wait()
                continue
            self._router.forward(topic, payload)


async def _post(url: str, payload: bytes) -> None:
    parts = urlsplit(url)
    assert parts.hostname is not None  # noqa: S101 - of a Rule that we made
    context = None
    if parts.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = parts.port or (80 if context is None else 443)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: Go-http-client/1.1\r\n"
    head += f"Content-Length: {len(payload)}\r\nAccept-Encoding: gzip\r\n\r\n"
    with contextlib.suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=context)
        try:
            writer.write(head.encode() + payload)
            async with asyncio.timeout(ANSWER_SECONDS):
                await reader.read()  # the answer does not matter; the connection stays until the target ends it
        finally:
            writer.close()


def _topic(key: Key, rule: Rule) -> str:
    return f"{key[0]}/{rule.spec.source_resource.get('topic')}"


def _is_ready(node: Object) -> bool:
    conditions = node.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


async def serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    """Run both halves until `stop` is set."""
    broker = urlsplit(options.broker)
    router = Router(options.node)
    edge = Edge(router, qps=options.qps, burst=options.burst)
    async with await Kube.connect(kubeconfig=options.kubeconfig) as kube:
        synced = {name: asyncio.Event() for name in ("nodes", "endpoints", "rules")}

        async def rules() -> None:
            await synced["nodes"].wait()
            await synced["endpoints"].wait()
            await follow(kube, Kind.of(Rule.crd), changed=router.rule_seen, synced=synced["rules"])

        await until_stopped(
            stop,
            follow(kube, NODES, changed=router.node_seen, synced=synced["nodes"]),
            follow(kube, Kind.of(RuleEndpoint.crd), changed=router.endpoint_seen, synced=synced["endpoints"]),
            rules(),
            edge.run(broker.hostname or "", broker.port or 1883),
        )


def main() -> int:
    """`python -m scripts.testbed.kubeedge_router`."""
    parser = argparse.ArgumentParser(description="Behaves, and loses, as KubeEdge's router does.")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="of the cluster with the Rules")
    parser.add_argument("--node", required=True, help="the one edge node")
    parser.add_argument("--broker", required=True, help="its broker, mqtt://host:port")
    parser.add_argument("--qps", type=float, default=30.0, help="edgecore's messageQPS")
    parser.add_argument("--burst", type=float, default=60.0, help="edgecore's messageBurst")
    options = parser.parse_args()
    configure_logging("info")
    return run_process(lambda stop: serve(options, stop))


if __name__ == "__main__":
    sys.exit(main())
