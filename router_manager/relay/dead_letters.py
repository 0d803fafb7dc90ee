"""What a target will never take, kept for people: one NDJSON file a lane, with the reason in each line."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path

import orjson

from router_manager.domain.encoding import rfc3339
from router_manager.domain.payload import NOT_JSON, Record
from router_manager.domain.table import LaneKey
from router_manager.relay.positions import lane_file_name

_MAX_FILE_BYTES = 64 << 20


class DeadLetters:
    """The folder of all lanes' files. A file that reaches 64 MiB becomes `.1`, and the `.1` before it goes."""

    def __init__(self, directory: Path, *, max_file_bytes: int = _MAX_FILE_BYTES) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._max_file_bytes = max_file_bytes

    async def bury(self, key: LaneKey, letters: Iterable[tuple[Record, str]]) -> None:
        """Write records and reasons; on disk when it returns.

        Raises:
            OSError: the disk does not take them.
        """
        data = b"".join([_line(record, reason) for record, reason in letters])
        await asyncio.to_thread(self._append, self._directory / f"{lane_file_name(key)}.ndjson", data)

    def _append(self, path: Path, data: bytes) -> None:
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fdatasync(file.fileno())
            size = file.tell()
        if size >= self._max_file_bytes:
            path.replace(path.with_suffix(".ndjson.1"))


def _line(record: Record, reason: str) -> bytes:
    line = {
        "id": record.id,
        "topic": record.topic,
        "ingestedAt": rfc3339(record.ingested_ns),
        "reason": reason,
    }
    if record.value is NOT_JSON:
        line["payloadBase64"] = b64encode(record.payload).decode()
    else:
        line["payload"] = orjson.Fragment(record.payload.replace(b"\n", b" ").replace(b"\r", b" "))
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
