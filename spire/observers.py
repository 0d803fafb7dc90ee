"""Who wants to know when something is another: callbacks, called in the order in which they came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, ParamSpec

P = ParamSpec("P")


class Observers(Generic[P]):
    """Of one thing that changes."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[P, None]] = []

    def add(self, callback: Callable[P, None]) -> Callable[[], None]:
        """Call back from now on; returns the way to stop it, which may be called twice."""
        self._callbacks.append(callback)

        def stop() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return stop

    def tell(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call all back; one that comes or goes meanwhile counts from the next time on."""
        for callback in tuple(self._callbacks):
            callback(*args, **kwargs)
