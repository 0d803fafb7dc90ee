"""A real InfluxDB 1.x as a child, with a state folder that outlives it."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from scripts.testbed.broker import SEARCH_PATH
from scripts.testbed.processes import Child, ChildFailedError, free_port

LIMIT_SECONDS: Final = 30


class Influx:
    """influxd on 127.0.0.1, stopped at the end of the `with` block.

    Args:
        directory: State and log; made when absent, kept at the end (whoever made it removes it).
        settings: Environment variables that change its configuration, such as INFLUXDB_HTTP_AUTH_ENABLED.

    Raises:
        ChildFailedError: influxd is not installed, or does not come up.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        program = shutil.which("influxd", path=SEARCH_PATH)
        if program is None:
            raise ChildFailedError("influxd is not installed; on Debian: apt-get install influxdb")
        directory.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._child = Child(
            name="influxd",
            command=[program, "run", "-config", os.devnull],
            directory=directory,
            environment={
                **os.environ,
                "INFLUXDB_REPORTING_DISABLED": "true",
                "INFLUXDB_BIND_ADDRESS": f"127.0.0.1:{free_port()}",
                "INFLUXDB_HTTP_BIND_ADDRESS": f"127.0.0.1:{port}",
                "INFLUXDB_META_DIR": str(directory / "meta"),
                "INFLUXDB_DATA_DIR": str(directory / "data"),
                "INFLUXDB_DATA_WAL_DIR": str(directory / "wal"),
                "INFLUXDB_HTTP_LOG_ENABLED": "false",
                **(settings or {}),
            },
        )
        try:
            self._child.wait_until(self._answers, what="/ping", limit=LIMIT_SECONDS)
        except BaseException:
            self._child.kill()
            raise

    def query(self, text: str, *, database: str = "", authorization: str | None = None) -> bytes:
        """The answer to one InfluxQL statement, as JSON."""
        headers = {} if authorization is None else {"Authorization": authorization}
        body = urlencode({"q": text, "db": database}).encode()
        with urlopen(Request(f"{self.url}/query", data=body, headers=headers), timeout=LIMIT_SECONDS) as answer:  # noqa: S310 - our own URL
            found: bytes = answer.read()
        return found

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.url}/ping", timeout=1) as answer:  # noqa: S310 - our own URL
                return bool(answer.status == 204)
        except OSError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop()
