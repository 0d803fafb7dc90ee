"""A device that proves who it is: gets an SVID, publishes with it, and proves it again in time.

It attests when it starts, at half of the life of its SVID, when its connection is lost, when it is asked to
(`attest/<ueid>/challenge` on its connection) and when its flash was rewritten.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

from crds.errors import EdgeError
from scripts.simulator.doors import LIMIT_SECONDS, attest
from scripts.simulator.identity import Firmware, renewal
from scripts.simulator.publisher import Publisher
from scripts.simulator.readings import Message
from scripts.testbed.console import say
from spire.domain.authorization import in_domain
from spire.identity import FixedIdentity, Identity
from spire.readings import sign
from spire.tls import client_context

WATCH_SECONDS: Final = 0.2
LEAST_SECONDS: Final = 1.0
"""Between two attestations, however often its connection is lost."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0


class AttestedPublisher(Publisher):
    """The connection of one device, which is there as soon as the device has an SVID.

    Args:
        name: of the device, for what is said.
        broker: `mqtts://host:port`, where it publishes.
        firmware: proves who it is.
    """

    patient = False

    def __init__(self, name: str, broker: str, firmware: Firmware) -> None:
        self._name = name
        self._firmware = firmware
        self._source: FixedIdentity | None = None
        self._again = Event()
        self._tried = Event()
        self._stopped = Event()
        self._keeper = Thread(target=self._keep, name=f"attest-{name}", daemon=True)
        super().__init__(broker, client_id=str(self._firmware.ueid))
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_trouble
        self._client.message_callback_add(self._challenges, self._on_trouble)

    def publish(self, message: Message) -> bool:
        """Hand one message to the broker, signed where that is asked for; a device that has no SVID yet sends none."""
        if self._source is None:
            return False
        if message.sensor.integrity == "Signed":
            # Microseconds grow from message to message, and go on growing after the device has started again.
            now = datetime.now(UTC)
            signed = sign(
                message.payload,
                key=self._firmware.key,
                chain=self._source.current.svid.chain,
                sensor=message.sensor.sensor,
                sequence=int(now.timestamp() * 1_000_000),
                time=now,
            )
            message = replace(message, payload=signed)
        return super().publish(message)

    def start(self) -> None:
        """Begin to attest; the connection follows."""
        self._keeper.start()

    def settle(self) -> None:
        """Wait for the end of its first attempt."""
        self._tried.wait(2 * LIMIT_SECONDS)

    def close(self) -> None:
        """End everything in order."""
        self._stopped.set()
        self._again.set()
        self._keeper.join(timeout=3 * LIMIT_SECONDS)
        super().close()

    @property
    def _challenges(self) -> str:
        return f"attest/{self._firmware.ueid}/challenge"

    def _on_connect(self, *_: Any) -> None:
        self._client.subscribe(self._challenges, qos=1)

    def _on_trouble(self, *_: Any) -> None:
        self._again.set()

    def _keep(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopped.is_set():
            self._again.clear()
            if attested := self._attest():
                assert self._source is not None  # noqa: S101 - set when it succeeds
                pause = FIRST_PAUSE
                wait = renewal(self._source.current, now=datetime.now(UTC)).total_seconds()
            else:
                # A refusal may end with the next policy or the next firmware: it asks again, ever more rarely.
                wait, pause = pause * random.uniform(0.75, 1.25), min(2 * pause, LONGEST_PAUSE)
            self._tried.set()
            self._rest(wait, prompt=attested)

    def _rest(self, seconds: float, *, prompt: bool) -> None:
        """Wait for the next reason to attest; after a refusal the loss of the connection is no reason."""
        began = time.monotonic()
        while not self._stopped.is_set() and not self._firmware.rewritten:
            passed = time.monotonic() - began
            if passed >= seconds or (prompt and passed >= LEAST_SECONDS and self._again.is_set()):
                return
            self._stopped.wait(WATCH_SECONDS)

    def _attest(self) -> bool:
        try:
            if self._firmware.rewritten:
                self._firmware.boot()
                say(f"{self._name}: started what its flash holds now")
            answer = attest(
                self._firmware.said.attest,
                bundle=Path(self._firmware.said.bundle),
                ueid=self._firmware.ueid,
                react=self._firmware.react,
            )
        except EdgeError as error:
            say(f"{self._name}: not attested: {error}")
            return False
        if isinstance(answer, str):
            say(f"{self._name}: refused: {answer}")
            return False
        self._use(answer)
        return True

    def _use(self, identity: Identity) -> None:
        """Publish with this SVID from the next connection on."""
        if self._source is not None:
            self._source.replace(identity)
            return
        self._source = FixedIdentity(identity)
        trust_domain = identity.svid.spiffe_id.trust_domain
        context = client_context(self._source, authorize=in_domain(trust_domain, path="/broker/"))
        self._client.tls_set_context(context)
        self._client.connect_async(*self._address, keepalive=30)
        self._client.loop_start()
        say(f"{self._name}: is {identity.svid.spiffe_id}")
