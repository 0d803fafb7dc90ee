"""What tests of the issuer meet beside a cluster."""

import uuid
from collections.abc import Iterator

import pytest

from scripts.testbed.cluster import Cluster


@pytest.fixture
def other_namespace(cluster: Cluster) -> Iterator[str]:
    """A second namespace, as if it were of another cluster."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    cluster.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}])
    yield name
    cluster.api.request("DELETE", f"/api/v1/namespaces/{name}")
