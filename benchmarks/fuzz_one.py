"""`python -m benchmarks.fuzz_one TARGET CORPUS [libFuzzer's flags]`: fuzz one parser in this process, until it ends it.

Signatures are taken for good: no mutation would get past them, and what lies behind them has to hold as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["spire", "router_manager", "crds.errors", "crds.predicate", "crds.units"]):
    from benchmarks.fuzz_targets import run, targets
    from spire.domain import keys


def main() -> None:
    name, corpus, *flags = sys.argv[1:]
    target = targets()[name]
    keys.verify_der = _verify_nothing
    for number, seed in enumerate(target.seeds):
        run(target, seed)
        Path(corpus, f"seed-{number}").write_bytes(seed)
    atheris.Setup([name, corpus, *flags], lambda data: run(target, data))
    atheris.Fuzz()


def _verify_nothing(key: keys.PublicKey, *, signature: bytes, message: bytes, what: str, hash_name: str | None) -> None:
    del key, signature, message, what, hash_name


if __name__ == "__main__":
    main()
