"""Endpoints of every kind in reservations and contracts."""

from typing import Any

import pytest

from scripts.testbed.cluster import Cluster
from tests.edge_resource_manager.gateway import samples
from tests.edge_resource_manager.gateway.conftest import Provider, running

MQTT = {"name": "broker", "mqtt": {"url": "mqtts://192.0.2.7", "topic": "plant/{device}"}}
KAFKA = {"name": "cluster", "kafka": {"bootstrapServers": ["k:9092"], "topic": "readings"}}


@pytest.mark.parametrize(
    ("endpoint", "shown"), [(MQTT, "mqtts://192.0.2.7"), (KAFKA, "kafka://k:9092/readings")], ids=["mqtt", "kafka"]
)
async def test_endpoints_of_every_kind_can_be_bought_for(
    provider_cluster: Cluster, namespace: str, endpoint: dict[str, Any], shown: str
) -> None:
    async with running(provider_cluster, allow_kafka="k:9092") as provider:
        (flavor,) = await provider.offer(samples.flavor("a", namespace=namespace))
        reserved = await provider.reserve(flavor, endpoints=[endpoint])
        assert reserved.status == 200, reserved.json
        bought = await provider.purchase(reserved.json["transactionID"])
        assert bought.json["ingressTelemetryEndpoint"]["endpoint"] == shown


async def test_a_kafka_cluster_that_the_provider_has_not_named_is_refused(provider: Provider, namespace: str) -> None:
    (flavor,) = await provider.offer(samples.flavor("a", namespace=namespace))
    answer = await provider.reserve(flavor, endpoints=[KAFKA])
    assert answer.status == 403
    assert "--allow-kafka" in answer.json["detail"]
