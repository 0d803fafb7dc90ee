"""What the demo says while it works: a line a step with its time, and a sign of life in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Final

from rich.console import Console

FIRST_SIGN_SECONDS: Final = 2.0
NEXT_SIGN_SECONDS: Final = 5.0
PLAIN_WIDTH: Final = 140


class Stage:
    """The steps so far and their seconds."""

    def __init__(self) -> None:
        console = Console(highlight=False)
        # Without a terminal rich would wrap at 80 columns, in the middle of names.
        self.console = console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)
        self.steps: dict[str, float] = {}
        self._began = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """Run one step; what it passes to the function that it gets is said at the end."""
        began = time.monotonic()
        details: list[str] = []
        with self._sign_of_life(title, began):
            yield details.append
        now = time.monotonic()
        self.steps[title] = round(now - began, 3)
        detail = f"[dim] {', '.join(details)}[/dim]" if details else ""
        self.console.print(
            f"[green]{now - self._began:6.1f} s[/green]  {title} [dim]({now - began:.1f} s)[/dim]{detail}"
        )

    @contextmanager
    def _sign_of_life(self, title: str, began: float) -> Iterator[None]:
        if self.console.is_terminal:
            with self.console.status(f"{title} ..."):
                yield
            return
        finished = Event()

        def tick() -> None:
            pause = FIRST_SIGN_SECONDS
            while not finished.wait(pause):
                self.console.print(f"          {title} ... {time.monotonic() - began:.0f} s")
                pause = NEXT_SIGN_SECONDS

        ticker = Thread(target=tick, daemon=True)
        ticker.start()
        try:
            yield
        finally:
            finished.set()
            ticker.join()
