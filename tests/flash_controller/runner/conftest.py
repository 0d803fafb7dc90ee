"""One registry for all of a run's attempts; a bench for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from scripts.testbed.cluster import Cluster
from scripts.testbed.registry import Registry
from tests.flash_controller.runner.bench import Bench, bench


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running.host


@pytest.fixture
async def own(cluster: Cluster, namespace: str, registry: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(cluster, namespace, registry, tmp_path) as made:
        yield made
