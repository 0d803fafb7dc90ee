"""How many requests are answered at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from edge_resource_manager.gateway.problems import Rejected

MAX_REQUESTS = 128


class Places:
    """Of one gateway.

    Attributes:
        limit: requests at a time; event streams have a bound of their own.
    """

    def __init__(self) -> None:
        self.limit = MAX_REQUESTS
        self._taken = 0

    @contextmanager
    def take(self) -> Iterator[None]:
        """One of them.

        Raises:
            Rejected: 503.
        """
        if self._taken >= self.limit:
            raise Rejected(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests at a time", after=1)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
