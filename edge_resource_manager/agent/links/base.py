"""What the ways to a device have in common."""

from __future__ import annotations

from typing import Final, Protocol

from crds.errors import Retryable

OPEN_SECONDS: Final = 20.0
SEND_SECONDS: Final = 20.0
CLOSE_SECONDS: Final = 5.0
MAX_WAITING: Final = 256
"""Frames of a device that wait for its runner."""


class DeviceGone(Retryable):
    """The device does not answer, or ended the connection."""


class Way(Protocol):
    """An open way to one device."""

    @property
    def max_frame(self) -> int:
        """Bytes that one `send` takes."""

    async def send(self, frame: bytes) -> None:
        """Hand over one frame.

        Raises:
            DeviceGone: it cannot be.
        """

    async def receive(self) -> bytes:
        """The next frame, however long that takes; never empty.

        Raises:
            DeviceGone: there will be none.
        """

    async def close(self) -> None:
        """End it; what was sent goes out first, if that is quick."""
