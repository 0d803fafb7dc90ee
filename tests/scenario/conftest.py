"""One world for all scenarios: it takes seconds to make, and every test leaves it as it was."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from scripts.testbed.controlplane import ControlPlanes
from tests.scenario.world import World


@pytest.fixture(scope="package")
def world(control_planes: ControlPlanes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A consumer whose claims are bound at a provider, and all processes of both."""
    with ExitStack() as stack:
        made = World(control_planes, directory=tmp_path_factory.mktemp("scenario"), stack=stack)
        made.start()
        yield made
