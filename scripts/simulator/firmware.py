"""Firmware of simulated boards: MCUboot images, whose code is a JSON document that says what the board does.

`python -m scripts.simulator.firmware OUT --manifest FILE --version 1.2.3 --security-counter 4` makes one with imgtool.
The manifest: `{"application": "environment", "messagesPerSecond": 10, "sensors": [{"uid": "1", "model": "hts221",
"measurements": [{"type": "Humidity"}], "topic": "device/{device}/{sensor}"}]}`: sensors as the index describes them.
Version and security counter are in the image's header.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Final, Literal

import orjson
from pydantic import Field

from crds.errors import EdgeError, InvalidField
from crds.models.base import Model, Word, validate
from crds.models.firmware import FirmwareSensor
from crds.models.leafdevice import MAX_SENSORS
from scripts.simulator.flash import SECTOR_BYTES, SLOT_BYTES, Slot
from scripts.testbed.console import say

HEADER_BYTES: Final = 0x200
VENDOR: Final = "simulated.fluidos.eu"
"""With a board's name it makes the UUIDs by which an image says which board it is for."""
LIMIT_SECONDS: Final = 60.0


class Application(Model):
    """What an image makes a board do."""

    application: Word
    messages_per_second: Annotated[float, Field(gt=0, le=10_000)] = 1.0
    """Of each sensor."""
    sensors: Annotated[tuple[FirmwareSensor, ...], Field(max_length=MAX_SENSORS)] = ()
    defect: Literal["None", "Hangs", "Lies"] = "None"
    """Hangs: it starts, and then does nothing. Lies: it claims in its evidence to be something else."""


def application_of(slot: Slot) -> Application:
    """What the code of a slot says.

    Raises:
        InvalidField: it says nothing that a simulated board understands.
    """
    document = slot.body.rstrip(b"\0")
    try:
        return validate(Application, orjson.loads(document), field="image.manifest")
    except orjson.JSONDecodeError as error:
        raise InvalidField(field="image.manifest", value=document[:80], expected=f"JSON ({error})") from error


def build(
    application: Application,
    *,
    version: str,
    security_counter: int | None = None,
    board: str | None = None,
    key: Path | None = None,
    size: int = 0,
) -> bytes:
    """An image, as imgtool makes it.

    Args:
        application: what it does.
        version: `1.2.3+4`.
        security_counter: for anti-rollback.
        board: the only one that it is for.
        key: signs it (PEM).
        size: bytes of its code at least, for images as large as real ones.

    Raises:
        InvalidField: imgtool refuses it.
    """
    code = orjson.dumps(application.dump()).ljust(size, b"\0")
    options = ["--version", version, "--header-size", hex(HEADER_BYTES), "--pad-header", "--align", "4"]
    options += ["--slot-size", str(SLOT_BYTES), "--max-sectors", str(SLOT_BYTES // SECTOR_BYTES)]
    options += [] if security_counter is None else ["--security-counter", str(security_counter)]
    options += [] if board is None else ["--vid", VENDOR, "--cid", board]
    options += [] if key is None else ["--key", str(key)]
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "code.bin"), Path(folder, "image.bin")
        source.write_bytes(code)
        command = (sys.executable, "-m", "imgtool.main", "sign", *options, str(source), str(made))
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS)
        if done.returncode:
            raise InvalidField(field="image", value=options, expected=f"what imgtool signs ({done.stderr.strip()})")
        return made.read_bytes()


def main() -> int:
    """The command."""
    options = _parser().parse_args()
    try:
        application = validate(Application, orjson.loads(options.manifest.read_bytes()), field="manifest")
        image = build(
            application,
            version=options.version,
            security_counter=options.security_counter,
            board=options.board,
            key=options.key,
            size=options.size,
        )
        options.out.write_bytes(image)
    except (EdgeError, OSError, orjson.JSONDecodeError) as error:
        say(f"firmware: {error}")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.simulator.firmware", description="Makes an image.")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--manifest", type=Path, required=True, metavar="FILE", help="what the board shall do, as JSON")
    parser.add_argument("--version", required=True, help="1.2.3+4")
    parser.add_argument("--security-counter", type=int, help="for anti-rollback")
    parser.add_argument("--board", help="name of the only board that it is for")
    parser.add_argument("--key", type=Path, metavar="FILE.pem", help="signs it")
    parser.add_argument("--size", type=int, default=0, help="bytes of its code at least")
    return parser


if __name__ == "__main__":
    sys.exit(main())
