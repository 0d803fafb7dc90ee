"""How the scripts speak to whoever waits: one plain line at a time on stderr, so that stdout stays for results."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

INTERVAL_SECONDS = 5.0


def say(text: str) -> None:
    """Writes one line to stderr at once."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress(what: str, *, expected: str) -> Iterator[None]:
    """Says every few seconds that `what` still goes on, and at the end how long it took.

    Args:
        what: The work, as a phrase: `building etcd`.
        expected: How long it should take, in words.
    """
    began = time.monotonic()
    finished = Event()

    def tick() -> None:
        while not finished.wait(INTERVAL_SECONDS):
            say(f"{what}: {time.monotonic() - began:.0f} s, expected {expected}")

    say(f"{what} (expected {expected})")
    ticker = Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield
    finally:
        finished.set()
        ticker.join()
    say(f"{what}: done after {time.monotonic() - began:.0f} s")
