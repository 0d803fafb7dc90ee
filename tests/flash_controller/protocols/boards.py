"""A simulated board behind a link in this process, which loses, repeats and delays what a test wants it to."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from crds.errors import Retryable
from flash_controller.adapters.agent_link import AgentLink, EdgeAgent
from flash_controller.domain.images import read_image
from flash_controller.protocols.smp_framing import Datagrams, Fragments, Framing, Lines
from scripts.simulator.firmware import Application, build
from scripts.simulator.flash import Flash
from scripts.simulator.smp import SmpServer
from tests.flash_controller.links.station import NAMESPACE

FRAME = 1024
OLD_VERSION, NEW_VERSION = "1.0.0", "2.3.4+5"
FRAMINGS: dict[str, Callable[[], Framing]] = {
    "datagrams": lambda: Datagrams(FRAME),
    "fragments": lambda: Fragments(20),
    "lines": Lines,
}


@functools.cache
def image(version: str, *, size: int = 20_000) -> bytes:
    """A firmware that a simulated board takes."""
    return build(Application(application="environment"), version=version, security_counter=1, size=size)


def measurement(data: bytes) -> str:
    return read_image(data).measurement


async def leased(agent: EdgeAgent, device: str = "a") -> AgentLink:
    """A link to a device; the agent may still be closing the one before."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(Retryable):
                return await agent.lease(NAMESPACE, device)
            await asyncio.sleep(0.01)


class Board:
    """Flash and server; every link to it is a connection to the same board."""

    def __init__(self, directory: Path, *, runs: bytes) -> None:
        self.flash = Flash(directory)
        self.flash.install(runs)
        self.resets = 0
        self.start()

    def start(self) -> None:
        """Power on."""
        self._resetting = False
        self.flash.boot()
        self._server = SmpServer(self.flash, reset=self._reset)

    def answer(self, message: bytes) -> bytes | None:
        """As the board does; a reset follows its answer."""
        answer = self._server.answer(message)
        if self._resetting:
            self.resets += 1
            self.start()
        return answer

    def _reset(self) -> None:
        self._resetting = True


class BoardLink:
    """A link to a board.

    Args:
        board: at the other end; None for one that is silent.
        framing: the board's side.
        fate: of each frame, in both directions: how many times it arrives.
        frames: towards the board, after which the link is cut.
    """

    max_frame = FRAME
    address = ""

    def __init__(
        self,
        board: Board | None,
        framing: Framing,
        *,
        fate: Iterator[int] | None = None,
        frames: int | None = None,
    ) -> None:
        self.sent = 0
        self._board = board
        self._framing = framing
        self._fate = fate
        self._left = frames
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def send(self, frame: bytes) -> None:
        self.sent += len(frame)
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self._arrived.put_nowait(None)
                raise Retryable("cut")
        for _ in range(self._copies()):
            for message in self._framing.feed(frame):
                answer = self._board.answer(message) if self._board else None
                for back in self._framing.encode(answer) if answer else ():
                    for _ in range(self._copies()):
                        self._arrived.put_nowait(back)
        await asyncio.sleep(0)

    async def receive(self) -> bytes:
        frame = await self._arrived.get()
        if frame is None:
            raise Retryable("cut")
        return frame

    async def close(self) -> None:
        pass

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        raise NotImplementedError

    def _copies(self) -> int:
        return next(self._fate, 1) if self._fate else 1
