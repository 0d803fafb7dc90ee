"""A fast HTTP target of its own: counts every id, and measures from the send time in the reading to its arrival.

POST / takes a JSON array, GET / answers the counts, DELETE / begins anew. Run as a process:
`python -m benchmarks.relay_sink PORT`.
"""

from __future__ import annotations

import asyncio
import sys
import time

import orjson
import uvloop

from spire.domain.authorization import under
from spire.identity import FixedIdentity, Identity
from spire.tls import server_context


class Sink(asyncio.Protocol):
    """One connection; HTTP/1.1 with Content-Length, which is what both engines send."""

    seen: set[int] = set()  # noqa: RUF012 - one set for all connections
    duplicates = 0
    latencies_us: list[int] = []  # noqa: RUF012 - as above

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] # a TCP server's transport is one

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._data) < end + 4 + length:
                return
            body = self._data[end + 4 : end + 4 + length]
            self._data = self._data[end + 4 + length :]
            answer = self._serve(head.split(b" ", 1)[0], body)
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))

    def _serve(self, method: bytes, body: bytes) -> bytes:
        if method == b"post":
            now = time.time_ns()
            for reading in orjson.loads(body):
                if reading["id"] in Sink.seen:
                    Sink.duplicates += 1
                else:
                    Sink.seen.add(reading["id"])
                    Sink.latencies_us.append((now - reading["sentAt"]) // 1000)
            return b""
        if method == b"delete":
            Sink.seen, Sink.duplicates, Sink.latencies_us = set(), 0, []
            return b""
        ordered = sorted(Sink.latencies_us)
        share = {name: ordered[min(len(ordered) - 1, int(len(ordered) * at))] if ordered else 0 for name, at in _SHARES}
        return orjson.dumps({"unique": len(Sink.seen), "duplicates": Sink.duplicates, **share})


_SHARES = (("p50", 0.5), ("p99", 0.99), ("max", 1.0))


async def main(port: int, identity: Identity | None = None) -> None:
    """Serve until killed; with an identity relays alone, over mutual TLS."""
    context = None if identity is None else server_context(FixedIdentity(identity), authorize=under("/relay/"))
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
