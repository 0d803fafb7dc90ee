"""The wire between a flash runner and the edge agent that owns radios and ports: one WebSocket over mTLS leases a device.

`GET /v1/links/{namespace}/{device}` is upgraded when the agent reaches the device, or listens for it, and nobody else
holds it; a refusal is an HTTP error with a `Refusal`. The agent's first message is a text, `Opened`. Each binary message
is one frame, in either direction: a datagram, what is written to or notified by a GATT characteristic, or any piece of a
stream. A text from the runner is an `HttpRequest` to the device, answered in order by the text of an `HttpAnswer`: for
devices that are told so to dial in. A link ends by a close frame with one of `Ended` and a text that says why.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from crds.models.base import Model, Text, Word

LINKS_ROUTE: Final = "/v1/links/{namespace}/{device}"
LINKS_PORT: Final = 3005
MAX_FRAME: Final = 65536
MAX_BODY: Final = 65536
MAX_MESSAGE: Final = 2 * MAX_BODY
HEARTBEAT_SECONDS: Final = 5.0
"""Between the pings of either side: whoever answers none is gone, and what it held is free."""

_IN_BASE64 = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class Ended(IntEnum):
    """Why the agent ends a link (RFC 6455, 7.4: 4000 and up are for applications)."""

    DEVICE_GONE = 4001
    LEASE_OVER = 4002
    NOT_A_FRAME = 4003


class Opened(Model):
    """The device is reached, or waited for."""

    max_frame: Annotated[int, Field(ge=1, le=MAX_FRAME)]
    """Bytes that one frame towards the device may have."""
    address: Annotated[str, Field(max_length=64)] = ""
    """Where the agent waits for the device to dial in, as host:port; empty where it does not."""


class Refusal(Model):
    """Why there is no link; the HTTP status says whether another try helps: 409 and 503 do, others do not."""

    reason: Word
    message: Text


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
