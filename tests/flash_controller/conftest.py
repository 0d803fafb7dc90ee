"""A real registry for all tests of a run; each takes a repository of its own."""

import uuid
from collections.abc import Iterator

import pytest

from scripts.testbed.registry import Registry


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Debian's docker-registry, open to all."""
    with Registry(tmp_path_factory.mktemp("registry")) as started:
        yield started


@pytest.fixture
def path() -> str:
    """Of a repository that nobody else has."""
    return f"firmware/{uuid.uuid4().hex}"
