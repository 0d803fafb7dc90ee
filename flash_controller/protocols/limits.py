"""Every wait for a device has a limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from crds.errors import Retryable


@asynccontextmanager
async def limit(seconds: float, message: str) -> AsyncIterator[None]:
    """Ends what takes too long.

    Raises:
        Retryable: with this message.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as silence:
        raise Retryable(f"{message} within {seconds:g} s") from silence
