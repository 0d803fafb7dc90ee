"""A real mosquitto as a child, with a state folder that outlives it: open to all, or with the identities of a site.

With `BrokerTls` it is what a sensor node has (docs/broker.md), from the very files of deploy/broker: one process for
those who have an identity and one, which strangers speak to, for those who are about to get one.
"""

import json
import os
import pwd
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from scripts.testbed.processes import Child, ChildFailedError, accepts, free_port

# Debian puts it into sbin, which is not on every user's PATH.
SEARCH_PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
SITE: Final = Path(__file__).resolve().parent.parent.parent / "deploy" / "broker"
STATE: Final = "/var/lib/fluidos-edge/broker/"
ACCOUNTS: Final = "dynamic-security.json"
DATA: Final = "mosquitto"
ONBOARDING: Final = "mosquitto-onboarding"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerTls:
    """What makes a broker one with identities.

    Attributes:
        data: Folder with `svid.pem`, `key.pem` and `own.pem` (the roots of the own trust domain alone), as the workload
            helper writes them; gets `mosquitto.pid`, for its SIGHUP.
        onboarding: The same for the process that strangers speak to: the helper tells one process a folder.
        node: Name of its Node: `agent.<node>` is the account that keeps all others.
    """

    data: Path
    onboarding: Path
    node: str


def configuration(*, port: int, state: Path, user: str, autosave_changes: int = 1) -> str:
    """The text of mosquitto.conf for a broker that is open to all and loses as little as mosquitto 2.0 can."""
    # Started as root it would change to `mosquitto`, who may not write into our folder.
    keeping = {STATE: f"{state}/", "autosave_interval 1": f"autosave_interval {autosave_changes}"}
    example = site_file("data.conf", keeping)
    who = f"listener {port} 127.0.0.1\nallow_anonymous true\nuser {user}\n"
    return who + example[example.index("persistence true") :]


def site_file(name: str, replaced: Mapping[str, str]) -> str:
    """A file of deploy/broker with the site's own words in place of the example's.

    Raises:
        ValueError: The example does not have one of those words.
    """
    text = (SITE / name).read_text()
    for example, own in replaced.items():
        if example not in text:
            raise ValueError(f"deploy/broker/{name} has no `{example}`")
        text = text.replace(example, own)
    return text


class Broker:
    """mosquitto on 127.0.0.1, stopped at the end of the `with` block.

    Args:
        directory: State and log; made when absent, kept at the end (whoever made it removes it).
        port: TCP port; a free one by default, and the same again after a restart.
        autosave_changes: How many changes a SIGKILL may cost. 1 is as safe as mosquitto 2.0 can be, and waits for the
            disk all the time: fit for hundreds of messages a second. With 100 it is as fast as without saving.
        tls: Only those whom the edge agent gave an account, and onboarding for the others; open to all by default.

    Raises:
        ChildFailedError: mosquitto is not installed, its port is taken, or it does not come up.
    """

    def __init__(
        self, directory: Path, *, port: int | None = None, autosave_changes: int = 1, tls: BrokerTls | None = None
    ) -> None:
        program = shutil.which("mosquitto", path=SEARCH_PATH)
        if program is None:
            raise ChildFailedError("mosquitto is not installed; on Debian: apt-get install mosquitto")
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port() if port is None else port
        self._tls = tls
        self._directory = directory
        self._program = program
        user = pwd.getpwuid(os.getuid()).pw_name
        self._ports = {DATA: [self.port]}
        if tls is None:
            text = configuration(port=self.port, state=directory, user=user, autosave_changes=autosave_changes)
            self._configuration(DATA).write_text(text)
        else:
            self._ports[ONBOARDING] = [free_port(), free_port()]
            self._configure(tls, user=user, autosave_changes=autosave_changes)
        self._children: dict[str, Child] = {}
        self._start()

    @property
    def url(self) -> str:
        """`mqtt://127.0.0.1:<port>`; `mqtts` where an SVID of an account is needed."""
        return f"{'mqtt' if self._tls is None else 'mqtts'}://127.0.0.1:{self.port}"

    @property
    def onboarding_url(self) -> str:
        """Where devices without an identity get one; of a broker with identities only."""
        return f"mqtts://127.0.0.1:{self._ports[ONBOARDING][0]}"

    @property
    def agent_onboarding_url(self) -> str:
        """Where the edge agent meets them."""
        return f"mqtts://127.0.0.1:{self._ports[ONBOARDING][1]}"

    @property
    def pid(self) -> int:
        """The process id of the present mosquitto: of the one with the data, where there are two."""
        return self._children[DATA].pid

    @property
    def pids(self) -> tuple[int, ...]:
        """Of all of it."""
        return tuple(child.pid for child in self._children.values())

    def reload(self) -> None:
        """Makes it read certificate and key again; roots it reads at a restart alone."""
        for pid in self.pids:
            os.kill(pid, signal.SIGHUP)

    def kill(self) -> None:
        """SIGKILL: what was not saved is lost, as on a power cut."""
        for child in self._children.values():
            child.kill()

    def stop(self) -> None:
        """Ends it in order; the state is saved."""
        for child in self._children.values():
            child.stop()

    def restart(self) -> None:
        """Starts it again on the same port and state, after stopping it if it still runs."""
        self.stop()
        self._start()

    def _configuration(self, name: str) -> Path:
        return self._directory / f"{name}.conf"

    def _configure(self, tls: BrokerTls, *, user: str, autosave_changes: int) -> None:
        first, second = self._ports[ONBOARDING]
        data = {
            "user mosquitto": f"user {user}",
            "/run/fluidos-edge/broker/": f"{tls.data}/",
            "listener 8883": f"listener {self.port} 127.0.0.1",
            STATE: f"{self._directory}/",
            "autosave_interval 1": f"autosave_interval {autosave_changes}",
        }
        onboarding = {
            "user mosquitto": f"user {user}",
            "/run/fluidos-edge/onboarding/": f"{tls.onboarding}/",
            "listener 8884": f"listener {first} 127.0.0.1",
            "listener 8885": f"listener {second} 127.0.0.1",
            "/etc/fluidos-edge/broker/": f"{self._directory}/",
        }
        self._configuration(DATA).write_text(site_file("data.conf", data))
        self._configuration(ONBOARDING).write_text(site_file("onboarding.conf", onboarding))
        (self._directory / "onboarding.acl").write_text(site_file("onboarding.acl", {}))
        (self._directory / "agent.acl").write_text(site_file("agent.acl", {"agent.edge-1": f"agent.{tls.node}"}))

    def _start(self) -> None:
        accounts = self._directory / ACCOUNTS
        if self._tls is not None and not _is_json(accounts):
            accounts.write_text(site_file(ACCOUNTS, {"agent.edge-1": f"agent.{self._tls.node}"}))
        self._children = {}
        try:
            for name, ports in self._ports.items():
                self._children[name] = self._start_one(name, ports)
        except BaseException:
            self.kill()
            raise

    def _start_one(self, name: str, ports: list[int]) -> Child:
        for port in ports:
            if accepts(port):  # its answer would be taken for ours
                raise ChildFailedError(f"{name}: port {port} of 127.0.0.1 is taken")
        # It writes its pid before it handles SIGHUP: a helper that renews a certificate right then would end it.
        command = ["env", "--ignore-signal=HUP", self._program, "-c", str(self._configuration(name))]
        child = Child(name=name, command=command, directory=self._directory)
        try:
            child.wait_until(lambda: all(map(accepts, ports)), what=f"listener on ports {ports}", limit=10)
        except BaseException:
            child.kill()
            raise
        return child

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _is_json(path: Path) -> bool:
    """Whether it is there and whole: a mosquitto that crashed may have left half of it, and does not start on that."""
    try:
        json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return True
