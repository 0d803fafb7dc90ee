"""What a protocol sees of the way to its device: links that carry frames.

A protocol opens them itself, because after a reset of the device it needs another one.
"""

from __future__ import annotations

from typing import Protocol

from crds.errors import Retryable, Terminal
from crds.models.links import HttpAnswer, HttpRequest, LinkKind


class LinkLost(Retryable):
    """The link ended, or could not be opened now: the device is away, resets, is held by somebody, or the agent is."""


class LinkRefused(Terminal):
    """There can be no such link: no such device, or its protocol does not use links of this kind."""


class Link(Protocol):
    """One way to a device, in order and without loss up to the agent; beyond, as the medium is.

    Attributes:
        max_frame: bytes that one frame may have.
        local: where the device has to dial, as host:port; empty unless the kind is Inbound.
    """

    max_frame: int
    local: str

    async def send(self, frame: bytes) -> None:
        """Send one frame, or a piece of a stream; returns when there is room for the next.

        Raises:
            LinkLost: it ended.
        """

    async def receive(self) -> bytes:
        """The next frame, or piece of a stream, however long that takes: limits are the protocol's.

        Raises:
            LinkLost: it ended, and all that came before has been received.
        """

    async def close(self) -> None:
        """End it; what was sent goes out first. Closing again does nothing."""


class Links(Protocol):
    """The ways to one device."""

    async def open(self, kind: LinkKind) -> Link:
        """A new link: Datagrams, Serial and Gatt reach the device, Inbound waits for it, Http asks it.

        Raises:
            LinkLost: not now.
            LinkRefused: never.
        """


async def ask(link: Link, request: HttpRequest) -> HttpAnswer:
    """One HTTP exchange over a link of kind Http.

    Raises:
        LinkLost: the link ended, or the device did not answer.
    """
    await link.send(request.model_dump_json(by_alias=True).encode())
    answer = HttpAnswer.model_validate_json(await link.receive())
    if answer.status == 0:
        raise LinkLost(f"{request.method} {request.path}: {answer.body.decode(errors='replace')}")
    return answer
