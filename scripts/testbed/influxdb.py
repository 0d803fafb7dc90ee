"""A real InfluxDB as a child, with a state folder that outlives it: 1.x of the distribution, 2.x where one is given."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from scripts.testbed.broker import SEARCH_PATH
from scripts.testbed.processes import Child, ChildFailedError, free_port

LIMIT_SECONDS: Final = 30
TOKEN: Final = "of-the-testbed"  # noqa: S105 - of a database that lives for one test


class _Influx:
    """influxd on 127.0.0.1, stopped at the end of the `with` block."""

    def __init__(self, directory: Path, *, port: int, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        directory.mkdir(parents=True, exist_ok=True)
        self._child = Child(
            name="influxd", command=command, directory=directory, environment={**os.environ, **environment}
        )
        try:
            self._child.wait_until(self._answers, what="/ping", limit=LIMIT_SECONDS)
        except BaseException:
            self._child.kill()
            raise

    def _ask(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        request = Request(f"{self.url}{path}", data=body, headers=dict(headers))  # noqa: S310 - our own URL
        with urlopen(request, timeout=LIMIT_SECONDS) as answer:  # noqa: S310 - as above
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


class Influx(_Influx):
    """InfluxDB 1.x.

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
        port = free_port()
        environment = {
            "INFLUXDB_REPORTING_DISABLED": "true",
            "INFLUXDB_BIND_ADDRESS": f"127.0.0.1:{free_port()}",
            "INFLUXDB_HTTP_BIND_ADDRESS": f"127.0.0.1:{port}",
            "INFLUXDB_META_DIR": str(directory / "meta"),
            "INFLUXDB_DATA_DIR": str(directory / "data"),
            "INFLUXDB_DATA_WAL_DIR": str(directory / "wal"),
            "INFLUXDB_HTTP_LOG_ENABLED": "false",
            **(settings or {}),
        }
        super().__init__(directory, port=port, command=[program, "run", "-config", os.devnull], environment=environment)

    def query(self, text: str, *, database: str = "", authorization: str | None = None) -> bytes:
        """The answer to one InfluxQL statement, as JSON."""
        headers = {} if authorization is None else {"Authorization": authorization}
        return self._ask("/query", urlencode({"q": text, "db": database}).encode(), headers)


class Influx2(_Influx):
    """InfluxDB 2.x with the organization `site`, the bucket `plant` and the token TOKEN.

    Args:
        directory: State and log; made when absent, kept at the end (whoever made it removes it).
        program: Its influxd.

    Raises:
        ChildFailedError: It does not come up.
    """

    def __init__(self, directory: Path, program: str) -> None:
        port = free_port()
        environment = {
            "INFLUXD_HTTP_BIND_ADDRESS": f"127.0.0.1:{port}",
            "INFLUXD_BOLT_PATH": str(directory / "influxd.bolt"),
            "INFLUXD_SQLITE_PATH": str(directory / "influxd.sqlite"),
            "INFLUXD_ENGINE_PATH": str(directory / "engine"),
            "INFLUXD_REPORTING_DISABLED": "true",
        }
        super().__init__(directory, port=port, command=[program], environment=environment)
        wanted = {"username": "site", "password": TOKEN, "token": TOKEN, "org": "site", "bucket": "plant"}
        self._ask("/api/v2/setup", json.dumps(wanted).encode(), {"Content-Type": "application/json"})

    def query(self, text: str) -> bytes:
        """The answer to one Flux script, as CSV."""
        headers = {"Content-Type": "application/vnd.flux", "Authorization": f"Token {TOKEN}"}
        return self._ask("/api/v2/query?org=site", text.encode(), headers)
