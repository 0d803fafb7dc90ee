"""The wire between a flash runner and the edge agent that owns radios and ports: a WebSocket over mTLS for each link.

`GET /v1/links/{namespace}/{device}/{kind}?holder=...` is upgraded when the device is reached and nobody else holds it.
The agent's first message is a text, `Opened`; each binary message after it is one frame, in either direction. A refusal
is an HTTP error with a `Refusal`; the end of a link is a close frame with one of `Ended` and a text.

A frame is a datagram (Datagrams), what was written to or notified by a characteristic (Gatt), any piece of a stream
(Serial, Inbound: there the device dials in), or the JSON of an `HttpRequest` and its `HttpAnswer` (Http).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from crds.models.base import Model, Text, Word

LinkKind = Literal["Datagrams", "Serial", "Gatt", "Inbound", "Http"]

LINKS_ROUTE: Final = "/v1/links/{namespace}/{device}/{kind}"
MAX_FRAME: Final = 65536
MAX_BODY: Final = 32768
"""Of HTTP requests and answers: with base64 and what is around it, they fit into a frame."""
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
    local: Annotated[str, Field(max_length=64)] = ""
    """Inbound only: host:port where the device has to dial."""


class Refusal(Model):
    """Why there is no link; the HTTP status says whether another try helps: 409 and 503 do, others do not."""

    reason: Word
    message: Text


class HttpRequest(Model):
    """To the device's own HTTP server; where that is, the agent knows."""

    model_config = _IN_BASE64
    method: Literal["GET", "POST"]
    path: Annotated[str, Field(max_length=256, pattern=r"^/[!-~]*$")]
    content_type: Annotated[str, Field(max_length=128, pattern=r"^[ -~]+$")] = "application/octet-stream"
    body: Annotated[bytes, Field(max_length=MAX_BODY)] = b""


class HttpAnswer(Model):
    """What it said; status 0 where it said nothing, and then `body` says why."""

    model_config = _IN_BASE64
    status: Annotated[int, Field(ge=0, le=599)]
    body: Annotated[bytes, Field(max_length=MAX_BODY)] = b""
