"""A board on a UDP port with two slots, and somebody who appraises it: what it attests shows in its LeafDevice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from crds.conditions import timestamp
from crds.errors import Retryable
from flash_controller.domain.images import Image
from scripts.simulator.firmware import application_of
from scripts.simulator.flash import Flash, PowerCutError, Slot
from scripts.simulator.smp import SmpServer

Attest = Callable[[dict[str, Any]], Awaitable[None]]


class Board(asyncio.DatagramProtocol):
    """One board.

    Attributes:
        silent_from: reboots after which it never answers again.
        mute: it boots and attests nothing.
        claims: measurements that its certificates have instead, by measurement.
        hangs: measurement of an image that its watchdog ends.
        written: bytes of images that arrived.
        cuts: how often its power was cut.
        boots: what it ran, by measurement, one after the other.
        dropped: called with each frame before it is answered; True loses it, and is counted in `held`.
        started: called when it has booted, before it says anything; true resets it.
    """

    def __init__(self, directory: Path, *, runs: bytes, attest: Attest) -> None:
        self.flash = Flash(directory)
        self.flash.install(runs)
        self.silent_from: int | None = None
        self.mute = False
        self.claims: dict[str, str] = {}
        self.hangs = ""
        self.written = 0
        self.cuts = 0
        self.boots: list[str] = []
        self.dropped: Callable[[bytes], bool] = lambda _: False
        self.held = 0
        self.started: Callable[[], object] = lambda: None
        self.port = 0
        self._attest = attest
        self._server: SmpServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def power_on(self) -> None:
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: self, ("127.0.0.1", self.port)
        )
        self.port = self._transport.get_extra_info("sockname")[1]
        await self._boot()

    async def power_off(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server = None
        self._transport.close()

    @property
    def runs(self) -> str:
        """The measurement of what it runs."""
        return self.boots[-1]

    def reset(self) -> None:
        """As a watchdog, a button or a power cut does."""
        self._server = None
        task = asyncio.create_task(self._boot())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def prove(self, *, minutes: float = 60) -> None:
        """Attest anew, for so long."""
        while True:
            try:
                return await self._attest(evidence(self._slot, claims=self.claims, minutes=minutes))
            except Retryable:
                await asyncio.sleep(0.1)

    def datagram_received(self, data: bytes, peer: Any) -> None:
        if self._server is None:
            return
        if self.dropped(data):
            self.held += 1
            return
        self._resetting = False
        self.written += len(data) if len(data) > 256 else 0
        try:
            answer = self._server.answer(data)
        except PowerCutError:
            self._light()
            self.reset()
            return
        if answer is not None:
            self._transport.sendto(answer, peer)
        if self._resetting:
            self.reset()

    def _light(self) -> None:
        self.cuts += 1
        self.flash.power = None

    def _to_reset(self) -> None:
        self._resetting = True

    async def _boot(self) -> None:
        await asyncio.sleep(0.02)
        while True:
            try:
                self._slot = self.flash.boot()
                break
            except PowerCutError:
                self._light()
        self.boots.append(self._slot.image.measurement)
        if self.runs == self.hangs:
            await asyncio.sleep(0.1)
            self.reset()
            return
        if self.silent_from is not None and len(self.boots) > self.silent_from:
            return
        if self.started():
            self.reset()
            return
        self._server = SmpServer(self.flash, reset=self._to_reset)
        if not self.mute:
            await self.prove()


def evidence(slot: Slot, *, claims: Mapping[str, str], minutes: float) -> dict[str, Any]:
    """What the issuer writes of a board that attested."""
    image: Image = slot.image
    now = datetime.now(UTC)
    firmware = {
        "measurement": claims.get(image.measurement, image.measurement),
        "version": image.version,
        "securityCounter": image.security_counter or 0,
    }
    return {
        "tier": "Attested",
        "application": application_of(slot).application,
        "firmware": firmware,
        "attestedTime": timestamp(now),
        "expirationTime": timestamp(now + timedelta(minutes=minutes)),
    }
