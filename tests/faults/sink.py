"""A target that has what it answered 2xx for on disk, and that can misbehave as a file tells it.

`python -m tests.faults.sink HOST PORT LOG`: one line of ids in LOG for each request that it took. `sink.mode` beside
it says how it behaves: `500` takes nothing, `hang` takes and never answers, `cut` takes and closes in the middle of its
answer, `slow` takes and answers in its own time. The line of a request that got no whole answer begins with `?`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import cast

import orjson
from aiohttp import web

_SLOW_SECONDS = 0.7
_HANG_SECONDS = 3600


class Sink:
    def __init__(self, log: Path) -> None:
        self._mode = log.with_suffix(".mode")
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        mode = self._mode.read_text() if self._mode.exists() else ""
        if mode == "500":
            return web.Response(status=500)
        ids = [reading["id"] for reading in orjson.loads(body)]
        self._note(ids, answered=mode not in {"hang", "cut"})
        if mode == "hang":
            await asyncio.sleep(_HANG_SECONDS)
        if mode == "slow":
            await asyncio.sleep(_SLOW_SECONDS)
        if mode == "cut":
            return await _half_an_answer(request)
        return web.Response(text="ok")

    def _note(self, ids: list[int], *, answered: bool) -> None:
        os.write(self._log, f"{'' if answered else '? '}{' '.join(map(str, ids))}\n".encode())
        os.fdatasync(self._log)


async def _half_an_answer(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b"x" * 50)
    cast("asyncio.Transport", request.transport).close()
    return response


async def main(host: str, port: int, log: Path) -> None:
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/", Sink(log).take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
