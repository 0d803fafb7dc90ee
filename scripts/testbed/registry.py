"""A real OCI registry as a child (Debian's docker-registry), with a state folder that outlives it."""

import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from scripts.testbed.broker import SEARCH_PATH
from scripts.testbed.processes import Child, ChildFailedError, accepts, free_port

LIMIT_SECONDS: Final = 20


@dataclass(frozen=True, slots=True)
class RegistryTls:
    """What makes a registry one that is asked by https.

    Attributes:
        certificate: File in PEM, for 127.0.0.1.
        key: File in PEM.
    """

    certificate: Path
    key: Path


class Registry:
    """docker-registry on 127.0.0.1, stopped at the end of the `with` block.

    Args:
        directory: State and log; made when absent, kept at the end (whoever made it removes it).
        port: TCP port; a free one by default, and the same again after a restart.
        htpasswd: Lines of `user:bcrypt hash`; open to all by default.
        tls: Plain HTTP by default.

    Raises:
        ChildFailedError: docker-registry is not installed, its port is taken, or it does not come up.
    """

    def __init__(
        self, directory: Path, *, port: int | None = None, htpasswd: str | None = None, tls: RegistryTls | None = None
    ) -> None:
        program = shutil.which("docker-registry", path=SEARCH_PATH)
        if program is None:
            raise ChildFailedError("docker-registry is not installed; on Debian: apt-get install docker-registry")
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port() if port is None else port
        self._directory = directory
        self._program = program
        address: dict[str, object] = {"addr": self.host, "secret": secrets.token_hex()}
        if tls is not None:
            address["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
        configuration: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
            "http": address,
        }
        if htpasswd is not None:
            users = directory / "htpasswd"
            users.write_text(htpasswd)
            configuration["auth"] = {"htpasswd": {"realm": "testbed", "path": str(users)}}
        # JSON is YAML.
        self._configuration.write_text(json.dumps(configuration))
        self._start()

    @property
    def host(self) -> str:
        """`127.0.0.1:<port>`, what a repository's name begins with."""
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        """SIGKILL, as on a power cut."""
        self._child.kill()

    def stop(self) -> None:
        """Ends it in order."""
        self._child.stop()

    def restart(self) -> None:
        """Starts it again on the same port and state, after stopping it if it still runs."""
        self.stop()
        self._start()

    @property
    def _configuration(self) -> Path:
        return self._directory / "registry.yml"

    def _start(self) -> None:
        if accepts(self.port):  # its answer would be taken for ours
            raise ChildFailedError(f"port {self.port} of 127.0.0.1 is taken")
        command = [self._program, "serve", str(self._configuration)]
        self._child = Child(name="docker-registry", command=command, directory=self._directory)
        try:
            self._child.wait_until(lambda: accepts(self.port), what=f"port {self.port}", limit=LIMIT_SECONDS)
        except BaseException:
            self._child.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
