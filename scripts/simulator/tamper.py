"""`python -m scripts.simulator.tamper IMAGE`: write code into a device's flash that lies about what it is.

The device starts it, goes on with the SVID that it has, and claims the measurement of the good code in its evidence.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scripts.simulator.identity import tampered


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m scripts.simulator.tamper", description="Tampers with a flash.")
    parser.add_argument("image", type=Path, help="the device's flash: `identity.image` of its entry")
    tamper_with(parser.parse_args().image)


def tamper_with(flash: Path) -> None:
    """Write such code into a flash."""
    write(flash, tampered(flash.read_bytes()))


def write(flash: Path, code: bytes) -> None:
    """Give a flash another content, at once."""
    draft = flash.with_name(f".{flash.name}.new")
    draft.write_bytes(code)
    draft.replace(flash)


if __name__ == "__main__":
    main()
