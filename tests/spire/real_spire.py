"""SPIRE as a site runs it (1.15 or later): a server and its agents, with our plug-ins, on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from scripts.testbed.processes import Child, free_port
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.workload import IdentitySettings
from tests.spire.plugins.test_attestor import POLICY
from tests.spire.support import device

SERVER = os.environ.get("SPIRE_SERVER") or shutil.which("spire-server")
AGENT = os.environ.get("SPIRE_AGENT") or shutil.which("spire-agent")
needs_server = pytest.mark.skipif(SERVER is None, reason="no spire-server on PATH, and SPIRE_SERVER is not set")
needs_agent = pytest.mark.skipif(
    SERVER is None or AGENT is None, reason="no spire-agent on PATH, and SPIRE_AGENT is not set"
)
DOMAIN = TrustDomain("devices.test")
START_SECONDS = 60


@dataclass(kw_only=True)
class SpireServer:
    """A server, which can be stopped and started again.

    Attributes:
        folder: its state, and what its plug-ins read.
        trust_domain: its name.
        settings: more lines of its `server` block.
        policy: what the attestor accepts.
    """

    folder: Path
    trust_domain: TrustDomain = DOMAIN
    settings: str = ""
    policy: Mapping[str, object] = field(default_factory=lambda: POLICY)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.socket = self.folder / "api.sock"
        self.bindings = self.folder / "bindings"
        self.write_policy(self.policy)
        (self.folder / "composer.json").write_bytes(orjson.dumps({"bindings": str(self.bindings)}))
        (self.folder / "server.conf").write_text(self._configuration())
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        assert self._child is not None, "it was not started"
        return self._child

    def start(self) -> None:
        command = [str(SERVER), "run", "-config", str(self.folder / "server.conf")]
        self._child = Child(name="spire-server", command=command, directory=Path.cwd(), logs=self.folder)
        self._child.wait_until(self._healthy, what="health", limit=START_SECONDS)

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()

    def write_policy(self, policy: Mapping[str, object]) -> None:
        said = {"policy": policy, "bindings": str(self.bindings)}
        (self.folder / "attestor.json").write_bytes(orjson.dumps(said))

    def reload(self) -> None:
        """Have it read the files of its plug-ins again."""
        said = self.log().count("reconfigured")
        os.kill(self.child.pid, signal.SIGUSR1)
        self.child.wait_until(lambda: self.log().count("reconfigured") > said, what="reload")

    def log(self) -> str:
        return self.child.log.read_text(errors="replace")

    def command(self, *words: str) -> str:
        """`spire-server` as an administrator uses it."""
        return _run(str(SERVER), *words, "-socketPath", str(self.socket))

    def json(self, *words: str) -> Any:
        return orjson.loads(self.command(*words, "-output", "json"))

    def _healthy(self) -> bool:
        try:
            return "healthy" in self.command("healthcheck")
        except subprocess.CalledProcessError:
            return False

    def _configuration(self) -> str:
        return f"""
server {{
  bind_address = "127.0.0.1"
  bind_port = "{self.port}"
  socket_path = "{self.socket}"
  trust_domain = "{self.trust_domain}"
  data_dir = "{self.folder}"
  {self.settings}
}}
plugins {{
  DataStore "sql" {{
    plugin_data {{
      database_type = "sqlite3"
      connection_string = "{self.folder / "datastore.sqlite3"}"
    }}
  }}
  KeyManager "disk" {{
    plugin_data {{
      keys_path = "{self.folder / "keys.json"}"
    }}
  }}
  {_plugin("NodeAttestor", "server-attestor", self.folder / "attestor.json")}
  {_plugin("CredentialComposer", "composer", self.folder / "composer.json")}
}}
"""


@dataclass(kw_only=True)
class SpireAgent:
    """An agent on a node with a DICE engine of its own, which `tests.spire.evidence` stands for.

    Attributes:
        server: whose agent it is.
        folder: its state.
        seed: of the node's hardware.
    """

    server: SpireServer
    folder: Path
    seed: str = "node 1"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.socket = self.folder / "agent.sock"
        evidence = [sys.executable, "-m", "tests.spire.evidence", self.seed]
        # A machine that is shared by other tests takes its time to start a program.
        said = {"evidence": evidence, "dataDir": str(self.folder), "evidenceSeconds": 60}
        (self.folder / "agent.json").write_bytes(orjson.dumps(said))
        (self.folder / "agent.conf").write_text(self._configuration())
        self._child: Child | None = None

    @property
    def spiffe_id(self) -> SpiffeId:
        return self.server.trust_domain.spiffe_id("spire", "agent", "dice", str(device(self.seed).claims.ueid))

    @property
    def identity_settings(self) -> IdentitySettings:
        """For a process whose Workload API is this agent's."""
        return IdentitySettings.model_construct(identity_socket=f"unix:{self.socket}", identity_wait_seconds=60)

    @property
    def child(self) -> Child:
        assert self._child is not None, "it was not started"
        return self._child

    def start(self) -> None:
        (self.folder / "bundle.pem").write_text(self.server.command("bundle", "show"))
        command = [str(AGENT), "run", "-config", str(self.folder / "agent.conf")]
        self._child = Child(name="spire-agent", command=command, directory=Path.cwd(), logs=self.folder)
        self._child.wait_until(self._healthy, what="health", limit=START_SECONDS)

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()

    def log(self) -> str:
        return self.child.log.read_text(errors="replace")

    def _healthy(self) -> bool:
        try:
            return "healthy" in _run(str(AGENT), "healthcheck", "-socketPath", str(self.socket))
        except subprocess.CalledProcessError:
            return False

    def _configuration(self) -> str:
        return f"""
agent {{
  data_dir = "{self.folder}"
  server_address = "127.0.0.1"
  server_port = "{self.server.port}"
  socket_path = "{self.socket}"
  trust_bundle_path = "{self.folder / "bundle.pem"}"
  trust_domain = "{self.server.trust_domain}"
}}
plugins {{
  {_plugin("NodeAttestor", "agent-attestor", self.folder / "agent.json")}
  KeyManager "disk" {{
    plugin_data {{
      directory = "{self.folder}"
    }}
  }}
  WorkloadAttestor "unix" {{
    plugin_data {{}}
  }}
}}
"""


@contextmanager
def running(*processes: SpireServer | SpireAgent) -> Iterator[None]:
    """Start them in turn; stop whatever of them runs at the end."""
    try:
        for each in processes:
            each.start()
        yield
    finally:
        for each in reversed(processes):
            each.stop()


def _plugin(kind: str, argument: str, file: Path) -> str:
    return f"""{kind} "dice" {{
    plugin_cmd = "{sys.executable}"
    plugin_args = ["-m", "spire.plugins", "{argument}"]
    plugin_data_file = "{file}"
  }}"""


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
