"""Messages to code: `python -m spire.proto.generate` writes the *_pb2 files, `--check` says whether they still fit."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def generate(target: Path) -> None:
    """Write the code of every .proto file here below `target`, in its packages' folders.

    Raises:
        RuntimeError: the compiler refuses a file; it says why on stderr.
    """
    sources = [str(path.relative_to(ROOT)) for path in sorted(HERE.glob("*.proto"))]
    if protoc.main(["protoc", f"-I{ROOT}", f"--python_out={target}", f"--pyi_out={target}", *sources]):
        msg = "protoc refuses the messages"
        raise RuntimeError(msg)


def stale(fresh: Path) -> list[str]:
    """Names of files that are not what `generate` wrote below `fresh`."""
    written = {path.name: path.read_bytes() for path in (fresh / HERE.relative_to(ROOT)).iterdir()}
    there = {path.name: path.read_bytes() for path in HERE.glob("*_pb2.py*")}
    return sorted(name for name in written.keys() | there.keys() if written.get(name) != there.get(name))


def main() -> int:
    """Write the files, or with `--check` name those that are stale and return 1."""
    parser = argparse.ArgumentParser(prog="python -m spire.proto.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 when a file is stale")
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        names = stale(Path(folder))
    for name in names:
        print(f"spire/proto/{name} is stale: run python -m spire.proto.generate", file=sys.stderr)
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
