"""The UDP ports of simulated boards, all in one thread: hundreds of boards are mostly silent.

A board takes as long over a frame as its flash takes to write it: an answer is sent no sooner.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from heapq import heappop, heappush
from itertools import count
from selectors import EVENT_READ, DefaultSelector
from threading import Event, Lock, Thread
from typing import Final

from crds.errors import InvalidField

POLL_SECONDS: Final = 0.2
MAX_DATAGRAM: Final = 65535
Answer = Callable[[bytes], bytes | None]


class Port:
    """One board's port; datagrams for a board that is not running are lost.

    Args:
        address: host and port.
        bytes_per_second: that the board takes; None for as many as come.

    Raises:
        InvalidField: the address is taken.
    """

    def __init__(self, address: tuple[str, int], *, bytes_per_second: int | None = None) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(0)
        try:
            self.socket.bind(address)
        except OSError as error:
            self.socket.close()
            raise InvalidField(field="update", value=f"{address}", expected=f"a free UDP port ({error})") from error
        self._answer: Answer | None = None
        self._lock = Lock()
        self._seconds = 0.0 if bytes_per_second is None else 1 / bytes_per_second
        self._busy = 0.0

    def attach(self, answer: Answer | None) -> None:
        """Let something answer, or nothing; when it returns, nothing else answers any more."""
        with self._lock:
            self._answer = answer

    def serve(self) -> tuple[float, Callable[[], None]] | None:
        """Take one datagram that is there; when to send which answer, by the monotonic clock."""
        try:
            frame, peer = self.socket.recvfrom(MAX_DATAGRAM)
        except OSError:  # another has taken it, or who asked is gone: it is UDP
            return None
        with self._lock:
            answer = None if self._answer is None else self._answer(frame)
        if answer is None:
            return None
        self._busy = max(self._busy, time.monotonic()) + len(frame) * self._seconds
        return self._busy, partial(self._send, answer, peer)

    def _send(self, answer: bytes, peer: tuple[str, int]) -> None:
        with suppress(OSError):
            self.socket.sendto(answer, peer)


class Ports(Thread):
    """Serves ports until it is closed."""

    def __init__(self) -> None:
        super().__init__(name="ports", daemon=True)
        self._selector = DefaultSelector()
        self._closed = Event()

    def open(self, address: tuple[str, int], *, bytes_per_second: int | None = None) -> Port:
        """Another port; see `Port`.

        Raises:
            InvalidField: the address is taken.
        """
        port = Port(address, bytes_per_second=bytes_per_second)
        self._selector.register(port.socket, EVENT_READ, port)
        return port

    def run(self) -> None:
        """Serve."""
        waiting: list[tuple[float, int, Callable[[], None]]] = []
        numbers = count()
        while not self._closed.is_set():
            limit = waiting[0][0] - time.monotonic() if waiting else POLL_SECONDS
            for key, _ in self._selector.select(max(0.0, min(limit, POLL_SECONDS))):
                if answer := key.data.serve():
                    due, send = answer
                    heappush(waiting, (due, next(numbers), send))
            while waiting and waiting[0][0] <= time.monotonic():
                heappop(waiting)[2]()

    def close(self) -> None:
        """End it, and free the ports."""
        self._closed.set()
        if self.is_alive():
            self.join()
        for key in list(self._selector.get_map().values()):
            key.data.socket.close()
        self._selector.close()
