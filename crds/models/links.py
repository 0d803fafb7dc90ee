"""The wire between flash runners and the edge agent that owns radios and ports: one WebSocket over mTLS is one device.

A runner connects to `/v1/links/{namespace}/{device}`. When the agent reaches the device, or waits for it to dial in,
its first message is the text of an `Opened`; from then on the device is the runner's until the connection ends. Each
binary message is one frame, in either direction: a datagram, what is written to or notified by a GATT characteristic,
or any piece of a stream. A text from the runner is an `HttpRequest`, answered in order by the text of an `HttpAnswer`:
for devices that are told so to dial in. The agent refuses and ends by a close frame: one of `Ended`, and why in words.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from crds.models.base import Model

LINKS_ROUTE: Final = "/v1/links/{namespace}/{device}"
LINKS_PORT: Final = 3005
MAX_REASON: Final = 123
"""Bytes of text in a close frame (RFC 6455, 5.5)."""
MAX_FRAME: Final = 65536
MAX_BODY: Final = 65536
MAX_MESSAGE: Final = 2 * MAX_BODY
HEARTBEAT_SECONDS: Final = 10.0
"""Between the pings of either side: whoever answers none is gone, and what it held is free."""

_IN_BASE64 = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class Ended(IntEnum):
    """Why there is no link, or none any more (RFC 6455, 7.4: 4000 and up are for applications)."""

    UNKNOWN_DEVICE = 4000
    NO_WAY = 4001
    BUSY = 4002
    DEVICE_GONE = 4003
    LEASE_OVER = 4004
    NOT_A_FRAME = 4005

    @property
    def may_pass(self) -> bool:
        """Whether another try may find it otherwise."""
        return self not in {Ended.NO_WAY, Ended.NOT_A_FRAME}

    @property
    def reason(self) -> str:
        """The word for a status."""
        return self.name.title().replace("_", "")


class Opened(Model):
    """The device is reached, or waited for."""

    max_frame: Annotated[int, Field(ge=1, le=MAX_FRAME)]
    """Bytes that one frame towards the device may have."""
    address: Annotated[str, Field(max_length=64)] = ""
    """Where the agent waits for the device to dial in, as host:port; empty where it does not."""


class HttpRequest(Model):
    """To the device's own HTTP server; where that is, the agent knows."""

    model_config = _IN_BASE64
    method: Literal["GET", "POST"]
    path: Annotated[str, Field(max_length=256, pattern=r"^/[!-~]*$")]
    body: Annotated[bytes, Field(max_length=MAX_BODY)] = b""


class HttpAnswer(Model):
    """What it said; status 0 where it said nothing, and then `body` says why."""

    model_config = _IN_BASE64
    status: Annotated[int, Field(ge=0, le=599)]
    body: Annotated[bytes, Field(max_length=MAX_BODY)] = b""
