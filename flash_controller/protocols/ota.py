"""What both versions of the OTA of Nubificus' ESP32s have in common: an HTTP server on the device, which dials in.

https://github.com/nubificus: esp32-akri and esp32-ota-update (the device), ota-agent (the other end).
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crds.errors import Retryable, Terminal
from flash_controller.protocols.base import DialIn, Link
from flash_controller.protocols.limits import limit
from flash_controller.reasons import ProtocolReason

DIAL_IN_SECONDS: Final = 100.0
"""The fielded device tries twenty times, four seconds apart."""
EVIDENCE_SECONDS: Final = 20.0
LONGEST_EVIDENCE: Final = 8192

_MAY_PASS: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


class Info(BaseModel):
    """What `GET /info` answers."""

    model_config = ConfigDict(frozen=True)

    device: Annotated[str, Field(max_length=64)]
    application: Annotated[str, Field(max_length=64)]
    version: Annotated[str, Field(max_length=64)]


async def read_info(link: DialIn) -> Info:
    """What the device runs.

    Raises:
        Retryable: no answer now.
        Terminal: it refuses, or answers something else.
    """
    body = await _ask(link, "GET", "/info")
    try:
        return Info.model_validate_json(body)
    except ValidationError as error:
        raise Terminal(f"/info of the device: {error}", reason=ProtocolReason.INVALID_ANSWER) from error


async def request_update(link: DialIn, body: bytes) -> None:
    """Have the device dial in.

    Raises:
        Retryable: no answer now.
        Terminal: it refuses, or would take an image from anybody who connects.
    """
    answer = await _ask(link, "POST", "/update", body)
    if b"(Insecure)" in answer:
        raise Terminal("the device takes images without TLS only", reason=ProtocolReason.INSECURE_UPDATE)


async def read_evidence(link: Link, length: Callable[[bytes], int | None]) -> bytes:
    """What the device shows before anything else.

    Args:
        link: from where.
        length: of the whole, by its first bytes; None while they are too few.

    Raises:
        Retryable: it stopped in the middle.
        Terminal: it is longer than it says, or than evidence may be.
    """
    shown = b""
    async with limit(EVIDENCE_SECONDS, "the device showed no whole evidence"):
        while (whole := length(shown)) is None or len(shown) < whole:
            if whole is not None and whole > LONGEST_EVIDENCE:
                break
            shown += await link.receive()
    if len(shown) != whole:
        raise Terminal(
            f"the device's evidence says {whole} bytes, has {len(shown)}", reason=ProtocolReason.INVALID_EVIDENCE
        )
    return shown


async def _ask(link: DialIn, method: str, path: str, body: bytes = b"") -> bytes:
    status, answer = await link.request(method, path, body)
    if status == HTTPStatus.OK:
        return answer
    said = f"{method} {path} of the device: status {status}, {answer[:80]!r}"
    if status in _MAY_PASS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise Retryable(said)
    raise Terminal(said, reason=ProtocolReason.DEVICE_REFUSED)
