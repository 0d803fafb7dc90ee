"""A simulated board whose firmware can be replaced: what it runs is what its flash holds, and nothing else.

One life goes from boot to reset: the boot layer swaps or reverts, the image says what to publish, MCUmgr's SMP server
takes the next image. A board with an identity attests anew in each life, as what it now runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Annotated, Final, TextIO
from urllib.parse import urlsplit

from pydantic import Field

from crds.errors import EdgeError, InvalidField
from crds.models.base import Count, Model, Word
from scripts.simulator.attested import AttestedPublisher
from scripts.simulator.dice import Image
from scripts.simulator.firmware import Application, application_of
from scripts.simulator.flash import Flash, PowerCutError, Slot
from scripts.simulator.fleet import Fleet
from scripts.simulator.identity import BoardIdentity, File, Firmware
from scripts.simulator.ports import Port
from scripts.simulator.publisher import Publisher
from scripts.simulator.readings import Broker, SimulatedSensor, Source
from scripts.simulator.recordings import Recording
from scripts.simulator.smp import SmpServer
from scripts.simulator.vouched import VouchedPublisher
from scripts.testbed.console import say

PANIC_SECONDS: Final = 1.0
"""After which firmware that cannot go on resets its board."""


class UpdatableDevice(Model):
    """The entry of a board with two slots. Its sensors and topics are its firmware's."""

    device: Word
    broker: Broker | None = None
    """Without one it is silent: it runs, and can be updated."""
    slots: File
    """Folder of its flash; `image` is put there where it is empty."""
    image: File | None = None
    update: Annotated[str, Field(max_length=261, pattern=r"^udp://[^/:@\s]+:[0-9]{1,5}$")]
    """Where its SMP server listens."""
    flash_bytes_per_second: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """How fast its flash, or the radio before it, takes an image; as fast as it comes when absent."""
    key: File | None = None
    """Public key (PEM) that its boot layer demands the signature of."""
    identity: BoardIdentity | None = None
    svid: File | None = None
    station: str = "EWR"
    boot_milliseconds: Annotated[int, Field(ge=0, le=600_000)] = 100
    """Before what it starts runs."""
    watchdog_milliseconds: Annotated[int, Field(ge=1, le=86_400_000)] | None = 3000
    """After which a board resets whose firmware hangs; null for a board without a watchdog, which never comes back."""
    power_cut_after_bytes: Count | None = None
    """Once this much was written to its flash, its power is cut, and comes back after `darkMilliseconds`."""
    dark_milliseconds: Annotated[int, Field(ge=0, le=86_400_000)] = 1000

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        url = urlsplit(self.update)
        return url.hostname or "", url.port or 0


class SlotStore:
    """What a board's boot layer has just started; another image is another life.

    Args:
        slot: that it started.
        application: what its code says.
    """

    def __init__(self, slot: Slot, application: Application) -> None:
        self._slot = slot
        self._application = application

    def read(self) -> Image:
        """See `identity.Store`."""
        header = self._slot.image
        digest = bytes.fromhex(header.measurement)
        return Image(
            code=self._slot.body,
            application=self._application.application,
            version=header.version,
            counter=header.security_counter,
            digest=digest,
            claim=bytes(len(digest)) if self._application.defect == "Lies" else None,
        )

    def look(self) -> tuple[int, ...]:
        """See `identity.Store`."""
        return ()


class Updatable(Thread):
    """One board, from power on to power off.

    Args:
        said: its entry.
        port: where its SMP server listens.
        recording: what its sensors measure.
        first: number of its first message.
        log: gets a line for each message that its broker has acknowledged.

    Raises:
        InvalidField: its first image is no file.
    """

    def __init__(
        self, said: UpdatableDevice, *, port: Port, recording: Recording, first: int = 0, log: TextIO | None = None
    ) -> None:
        super().__init__(name=f"device-{said.device}", daemon=True)
        self._said = said
        self._port = port
        self._recording = recording
        self._next = first
        self._log = log
        self._restart = Event()
        self._off = Event()
        self._flash = Flash(Path(said.slots), key=Path(said.key) if said.key else None)
        if said.image is not None and self._flash.empty:
            try:
                self._flash.install(Path(said.image).read_bytes())
            except OSError as error:
                raise InvalidField(field="image", value=said.image, expected=f"a file ({error})") from error
        self._flash.power = said.power_cut_after_bytes

    def run(self) -> None:
        """Live, again and again."""
        while True:
            self._restart.clear()
            if self._off.is_set():  # `close` sets it first
                return
            try:
                self._live()
            except PowerCutError:
                pass
            except EdgeError as error:
                say(f"{self._said.device}: {error}")
                self._off.wait(PANIC_SECONDS)
            if self._flash.power == 0:
                say(f"{self._said.device}: dark")
                self._off.wait(self._said.dark_milliseconds / 1000)
                self._flash.power = None

    def close(self) -> None:
        """Power off, when the broker has acknowledged what was sent."""
        self._off.set()
        self._restart.set()
        self.join()

    def _live(self) -> None:
        slot = self._flash.boot()
        self._off.wait(self._said.boot_milliseconds / 1000)
        application = application_of(slot)
        say(f"{self._said.device}: runs {application.application} {slot.image.version}")
        if application.defect == "Hangs":
            watchdog = self._said.watchdog_milliseconds
            self._restart.wait(watchdog and watchdog / 1000)
            return
        answer = SmpServer(self._flash, reset=self._restart.set).answer
        with self._answering(answer):
            if self._said.broker is None:
                self._restart.wait()
            else:
                self._speak(self._said.broker, slot, application)

    @contextmanager
    def _answering(self, answer: Callable[[bytes], bytes | None]) -> Iterator[None]:
        def answer_while_lit(frame: bytes) -> bytes | None:
            if self._restart.is_set():  # it was the last one of this life
                return None
            try:
                return answer(frame)
            except PowerCutError:
                self._restart.set()
                return None

        self._port.attach(answer_while_lit)
        try:
            yield
        finally:
            self._port.attach(None)

    def _speak(self, broker: str, slot: Slot, application: Application) -> None:
        said = self._said
        device = said.device
        publisher: Publisher
        if said.identity is not None:
            firmware = Firmware(said.identity, SlotStore(slot, application))
            # The same image runs on many boards: this is all that it can call its own by.
            device, publisher = str(firmware.ueid), AttestedPublisher(said.device, broker, firmware)
        elif said.svid is not None:
            publisher = VouchedPublisher(broker, Path(said.svid))
        else:
            publisher = Publisher(broker)
        sensors = [
            SimulatedSensor(
                device=said.device,
                sensor=each.model,
                broker=broker,
                topic=each.topic.replace("{device}", device).replace("{sensor}", each.uid),
                types=tuple(measurement.type for measurement in each.measurements),
            )
            for each in application.sensors
        ]
        with closing(publisher):
            publisher.start()
            self._publish(sensors, publisher, rate=application.messages_per_second)

    def _publish(self, sensors: Sequence[SimulatedSensor], publisher: Publisher, *, rate: float) -> None:
        if not sensors:
            self._restart.wait()
            return
        sources = [Source(each, self._recording) for each in sensors]
        fleet = Fleet(sources, {sensors[0].connection: publisher}, first=self._next, log=self._log)
        fleet.run(rate=rate, messages=None, stop=self._restart)
        self._next += fleet.sent
        if self._off.is_set():
            fleet.settle()
