"""`python -m scripts.simulator`: many leaf devices in one process.

The devices are a JSON array, one entry a sensor:
`[{"device": "board-1", "sensor": "hts221", "types": ["Humidity"], "topic": "...", "broker": "mqtt://127.0.0.1:1883"}]`.
With `"broker": "mqtts://..."` and `"identity": {"board": FILE, "image": FILE, "application": "...", "attest": URL,
"bundle": FILE}` a device proves what it is and what it runs before it publishes (`identity.SimulatedIdentity`); with
`"svid": DIR` somebody publishes for it who has an identity in files, as a mapper does. With an identity and
`"integrity": "Signed"` it signs each reading, so that receivers need not trust anybody else.
An entry with `"slots": DIR` and `"update": "udp://127.0.0.1:1337"` instead of sensor, types and topic is a board whose
firmware can be replaced (`device.UpdatableDevice`); it goes on until the end.
Ends after `--messages` of each sensor, or on SIGTERM or Ctrl-C, when the broker has acknowledged what was sent.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event
from typing import BinaryIO, Final

import orjson

from crds.errors import EdgeError, InvalidField
from crds.models.base import validate
from scripts.simulator.attested import AttestedPublisher
from scripts.simulator.device import Updatable, UpdatableDevice
from scripts.simulator.fleet import Fleet
from scripts.simulator.identity import FileStore, Firmware
from scripts.simulator.ports import Ports
from scripts.simulator.publisher import Publisher
from scripts.simulator.readings import SimulatedSensor, Source
from scripts.simulator.recordings import Recording, replay, weather
from scripts.simulator.vouched import VouchedPublisher
from scripts.testbed.console import say

MAX_SENSORS: Final = 10_000


def main() -> int:
    """The command; 1 where the broker did not acknowledge everything, 2 for bad input."""
    options = _parser().parse_args()
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        sensors, updatable = _entries(options.devices)
        recordings = _recordings(options.replay, [it.station for it in sensors] + [it.station for it in updatable])
        sources = [Source(*pair) for pair in zip(sensors, recordings, strict=False)]
        with ExitStack() as stack:
            log = stack.enter_context(options.acknowledged.open("a")) if options.acknowledged else None
            ports = stack.enter_context(closing(Ports()))
            for device, recording in zip(updatable, recordings[len(sensors) :], strict=True):
                port = ports.open(device.address, bytes_per_second=device.flash_bytes_per_second)
                board = Updatable(device, port=port, recording=recording, first=options.first, log=log)
                board.start()
                stack.enter_context(closing(board))
            ports.start()
            connections = _connections(sensors)
            publishers = {key: _publisher(each) for key, each in connections.items()}
            for publisher in publishers.values():
                stack.enter_context(closing(publisher)).start()
            for publisher in publishers.values():
                publisher.settle()
            fleet = Fleet(sources, publishers, first=options.first, log=log)
            if sources:
                fleet.run(rate=options.rate, messages=options.messages, stop=stop)
                fleet.settle()
            else:
                stop.wait()
    except EdgeError as error:
        say(f"simulator: {error}")
        return 2
    sys.stdout.buffer.write(orjson.dumps({"sent": fleet.sent, "acknowledged": fleet.acknowledged}) + b"\n")
    return 0 if fleet.acknowledged == fleet.sent else 1


def _connections(sensors: Sequence[SimulatedSensor]) -> dict[tuple[str, str], SimulatedSensor]:
    """One sensor of each connection. A device is one board: what its sensors say of its identity is the same."""
    connections: dict[tuple[str, str], SimulatedSensor] = {}
    for index, sensor in enumerate(sensors):
        first = connections.setdefault(sensor.connection, sensor)
        if sensor.identity != first.identity:
            raise InvalidField(
                field=f"devices[{index}].identity", value=sensor.device, expected="the same for all its sensors"
            )
    return connections


def _publisher(sensor: SimulatedSensor) -> Publisher:
    secured = sensor.broker.startswith("mqtts:")
    if secured and sensor.identity is not None:
        firmware = Firmware(sensor.identity, FileStore(sensor.identity))
        return AttestedPublisher(sensor.device, sensor.broker, firmware)
    if secured and sensor.svid is not None:
        return VouchedPublisher(sensor.broker, Path(sensor.svid))
    if secured or sensor.identity is not None or sensor.svid is not None:
        expected = "mqtts:// with an identity or an svid, mqtt:// without"
        raise InvalidField(field="broker", value=sensor.broker, expected=expected)
    return Publisher(sensor.broker)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.simulator", description="Simulated leaf devices.")
    parser.add_argument(
        "--devices", type=argparse.FileType("rb"), required=True, help="JSON file, - for standard input"
    )
    parser.add_argument("--rate", type=_positive, default=1.0, help="messages a second of each sensor (1)")
    parser.add_argument("--messages", type=int, help="of each sensor; endless when absent")
    parser.add_argument("--first", type=int, default=0, help="number of the first message of a device (0)")
    parser.add_argument("--replay", type=Path, metavar="FILE.csv", help="own recorded data instead of the weather")
    parser.add_argument(
        "--acknowledged", type=Path, metavar="FILE", help="gets a line `<topic> <id>` for each message taken"
    )
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a number greater than 0")
    return value


def _entries(file: BinaryIO) -> tuple[list[SimulatedSensor], list[UpdatableDevice]]:
    try:
        entries = orjson.loads(file.read())
    except orjson.JSONDecodeError as error:
        raise InvalidField(field="devices", value=file.name, expected=f"a JSON array ({error})") from error
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_SENSORS:
        raise InvalidField(field="devices", value=entries, expected=f"a JSON array of 1 to {MAX_SENSORS} sensors")
    sensors, updatable = [], []
    for index, entry in enumerate(entries):
        field = f"devices[{index}]"
        if isinstance(entry, dict) and "slots" in entry:
            updatable.append(validate(UpdatableDevice, entry, field=field))
        else:
            sensors.append(validate(SimulatedSensor, entry, field=field))
    return sensors, updatable


def _recordings(own: Path | None, wanted: Sequence[str]) -> list[Recording]:
    if own is not None:
        recording = replay(own)
        for complaint in recording.complaints:
            say(f"simulator: {own}: {complaint}; skipped")
        return [recording] * len(wanted)
    stations = weather()
    for station in wanted:
        if station not in stations:
            raise InvalidField(field="devices.station", value=station, expected=f"one of {', '.join(stations)}")
    return [stations[station] for station in wanted]


if __name__ == "__main__":
    sys.exit(main())
