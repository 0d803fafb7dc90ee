"""The UDP ports of simulated boards, all in one thread: hundreds of boards are mostly silent."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
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

    Raises:
        InvalidField: the address is taken.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(0)
        try:
            self.socket.bind(address)
        except OSError as error:
            self.socket.close()
            raise InvalidField(field="update", value=f"{address}", expected=f"a free UDP port ({error})") from error
        self._answer: Answer | None = None
        self._lock = Lock()

    def attach(self, answer: Answer | None) -> None:
        """Let something answer, or nothing; when it returns, nothing else answers any more."""
        with self._lock:
            self._answer = answer

    def serve(self) -> None:
        """Answer one datagram that is there."""
        with suppress(OSError):  # another has taken it, or who asked is gone: it is UDP
            frame, peer = self.socket.recvfrom(MAX_DATAGRAM)
            with self._lock:
                answer = None if self._answer is None else self._answer(frame)
            if answer is not None:
                self.socket.sendto(answer, peer)


class Ports(Thread):
    """Serves ports until it is closed."""

    def __init__(self) -> None:
        super().__init__(name="ports", daemon=True)
        self._selector = DefaultSelector()
        self._closed = Event()

    def open(self, address: tuple[str, int]) -> Port:
        """Another port.

        Raises:
            InvalidField: the address is taken.
        """
        port = Port(address)
        self._selector.register(port.socket, EVENT_READ, port)
        return port

    def run(self) -> None:
        """Serve."""
        while not self._closed.is_set():
            for key, _ in self._selector.select(POLL_SECONDS):
                key.data.serve()

    def close(self) -> None:
        """End it, and free the ports."""
        self._closed.set()
        if self.is_alive():
            self.join()
        for key in list(self._selector.get_map().values()):
            key.data.socket.close()
        self._selector.close()
