"""What every update protocol offers the runner, and what it needs: a link that the edge agent leases.

An `Updater` lives as long as its link. After `test_boot` or `revert` the device restarts: the runner then closes the
link, leases the next one, makes another updater and asks `inspect` until the answer is another one: some devices go on
answering for a moment before they restart. All that must outlive a restart is in the device, so a runner that was
killed goes on the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Progress = Callable[[int, int], None]
"""Called with the bytes that the device has taken so far, and how many there are."""

Judge = Callable[[bytes, bytes], None]
"""Raises `Terminal` where evidence does not show the device that is to be updated: evidence, and the nonce in it.

Evidence is an EAT; of the first OTA version a DER certificate, with no nonce.
"""


class Link(Protocol):
    """A leased way to one device. Both directions may be in use at once, each by one task."""

    @property
    def max_frame(self) -> int:
        """The most bytes of one `send`: a datagram's, a GATT write's; for a stream, what the wire takes at once."""

    async def send(self, frame: bytes) -> None:
        """Hand over one frame.

        Raises:
            Retryable: the link, the lease or the device is gone.
        """

    async def receive(self) -> bytes:
        """The next datagram, notification or bytes of the stream; never empty.

        Raises:
            Retryable: as for `send`; also when the device ended a stream.
        """

    async def close(self) -> None:
        """Give the lease back; may be called twice."""


class DialIn(Link, Protocol):
    """The link of the OTA protocols whose device connects to us: the agent listens from the lease on.

    `send` and `receive` wait for the device; a device that connects again continues on a new lease only.
    """

    @property
    def address(self) -> str:
        """`host:port` of the listening agent, as the device reaches it."""

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """One HTTP request to the device; the answer's status and body (at most 64 KiB).

        Raises:
            Retryable: no answer.
        """


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a protocol guarantees by itself; what it does not is told in the rollout's status.

    Attributes:
        signed: the device's boot layer takes signed images only, where its maker has given it a key.
        resumes: an upload that was cut goes on where it stopped.
        test_boots: a new image runs on trial first.
        confirms: the trial ends with our word, and without it the device goes back by itself.
        reverts: `revert` brings the confirmed image back.
        measures: `inspect` tells the measurement of what is installed.
        tells_version: `inspect` tells the version of what runs.
    """

    signed: bool = False
    resumes: bool = False
    test_boots: bool = False
    confirms: bool = False
    reverts: bool = False
    measures: bool = False
    tells_version: bool = True

    @property
    def missing(self) -> tuple[str, ...]:
        """What status says of this protocol, in words."""
        said = (
            (self.signed, "no signature is checked by the device"),
            (self.resumes, "a cut upload begins again"),
            (self.test_boots, "no test boot"),
            (self.confirms, "no confirmation"),
            (self.reverts, "no revert"),
            (self.measures, "no measurement is told"),
            (self.tells_version, "no version is told"),
        )
        return tuple(words for has, words in said if not has)


@dataclass(frozen=True, slots=True)
class Slot:
    """One image that a device holds.

    Attributes:
        version: as the device says it; empty where it does not.
        measurement: lower-case hex, as in the index; empty where the protocol tells none.
        active: it runs.
        pending: it is tried at the next restart.
        confirmed: it stays, whatever happens.
    """

    version: str = ""
    measurement: str = ""
    active: bool = False
    pending: bool = False
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class Installed:
    """What is in a device now; `application` and `board` where the protocol tells them."""

    slots: tuple[Slot, ...]
    application: str = ""
    board: str = ""

    @property
    def active(self) -> Slot | None:
        """What runs; none while only a boot loader answers."""
        return next((slot for slot in self.slots if slot.active), None)

    @property
    def settled(self) -> bool:
        """The next restart changes nothing: a confirmed image runs and no other is pending."""
        return bool(self.active and self.active.confirmed) and not any(slot.pending for slot in self.slots)

    def find(self, measurement: str) -> Slot | None:
        """The slot that holds an image of this measurement."""
        return next((slot for slot in self.slots if measurement and slot.measurement == measurement), None)


class Updater(Protocol):
    """One device behind one protocol.

    Every method has a time limit and raises `Retryable` when the link or the device is gone, and `Terminal` with a
    reason when the device refuses; each may be called again after a `Retryable`, by another process too.
    """

    capabilities: Capabilities

    async def inspect(self) -> Installed:
        """What the device holds and runs."""

    async def write(self, image: bytes, *, measurement: str, progress: Progress) -> None:
        """Put an image beside the running one, or go on where the last call stopped.

        Where nothing `test_boots`, the device starts it for good by itself when it has come whole.
        """

    async def test_boot(self, measurement: str) -> None:
        """Have the image of this measurement tried, and restart; nothing where the protocol knows no trial."""

    async def confirm(self, measurement: str) -> None:
        """Keep the running image, which must be of this measurement; nothing where the protocol knows no trial."""

    async def revert(self) -> None:
        """One step back towards the confirmed image; a restart follows. Call it until `inspect` says `settled`.

        Raises:
            Terminal: `CannotRevert`, where the protocol does not revert.
        """

    async def close(self) -> None:
        """Give the link back."""
