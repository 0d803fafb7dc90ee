"""One Kafka for all tests that do not break it; each has topics of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from scripts.testbed.kafka import Kafka
from tests.relay.kafka.support import tls_files


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Takes some ten seconds to start."""
    directory = tmp_path_factory.mktemp("kafka")
    with Kafka(directory, tls=tls_files(directory)) as running:
        yield running


@pytest.fixture
def topic() -> str:
    """A name that nobody else has."""
    return f"topic-{uuid.uuid4().hex[:10]}"
