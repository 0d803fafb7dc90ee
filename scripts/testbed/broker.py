"""A real mosquitto as a child, with a state folder that outlives it."""

import os
import pwd
import shutil
from pathlib import Path
from typing import Final, Self

from scripts.testbed.processes import Child, ChildFailedError, accepts, free_port

# Debian puts it into sbin, which is not on every user's PATH.
SEARCH_PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def configuration(*, port: int, state: Path, user: str, autosave_changes: int = 1) -> str:
    """The text of mosquitto.conf for a broker that loses as little as mosquitto 2.0 can be made to lose."""
    return f"""\
listener {port} 127.0.0.1
allow_anonymous true
# Started as root it would change to `mosquitto`, who may not write into our folder.
user {user}
persistence true
persistence_location {state}/
# Its whole database is rewritten and fsynced at the end of a round of its loop (src/loop.c) once so many things have
# changed - a message is three: stored, sent, acknowledged - and on SIGTERM. It acknowledges earlier in the round, so
# what came in the last one before a SIGKILL can be lost even with 1.
autosave_on_changes true
autosave_interval {autosave_changes}
# A session that is away keeps everything up to this many bytes, not the default 1,000 messages.
max_queued_messages 0
max_queued_bytes 268435456
max_inflight_messages 0
# The relay acknowledges in batches: do not hold its small packets back.
set_tcp_nodelay true
log_dest stderr
log_type error
log_type warning
log_type notice
"""


class Broker:
    """mosquitto on 127.0.0.1, stopped at the end of the `with` block.

    Args:
        directory: State and log; made when absent, kept at the end (whoever made it removes it).
        port: TCP port; a free one by default, and the same again after a restart.
        autosave_changes: How many changes a SIGKILL may cost. 1 is as safe as mosquitto 2.0 can be, and waits for the
            disk all the time: fit for hundreds of messages a second. With 100 it is as fast as without saving.

    Raises:
        ChildFailedError: mosquitto is not installed, its port is taken, or it does not come up.
    """

    def __init__(self, directory: Path, *, port: int | None = None, autosave_changes: int = 1) -> None:
        program = shutil.which("mosquitto", path=SEARCH_PATH)
        if program is None:
            raise ChildFailedError("mosquitto is not installed; on Debian: apt-get install mosquitto")
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port() if port is None else port
        self._directory = directory
        self._configuration = directory / "mosquitto.conf"
        user = pwd.getpwuid(os.getuid()).pw_name
        self._configuration.write_text(
            configuration(port=self.port, state=directory, user=user, autosave_changes=autosave_changes)
        )
        self._command = [program, "-c", str(self._configuration)]
        self._child = self._start()

    @property
    def url(self) -> str:
        """`mqtt://127.0.0.1:<port>`."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the present mosquitto."""
        return self._child.pid

    def kill(self) -> None:
        """SIGKILL: what was not saved is lost, as on a power cut."""
        self._child.kill()

    def stop(self) -> None:
        """Ends it in order; the state is saved."""
        self._child.stop()

    def restart(self) -> None:
        """Starts it again on the same port and state, after stopping it if it still runs."""
        self.stop()
        self._child = self._start()

    def _start(self) -> Child:
        if accepts(self.port):  # its answer would be taken for ours
            raise ChildFailedError(f"mosquitto: port {self.port} of 127.0.0.1 is taken")
        child = Child(name="mosquitto", command=self._command, directory=self._directory)
        try:
            child.wait_until(lambda: accepts(self.port), what=f"listener on port {self.port}", limit=10)
        except BaseException:
            child.kill()
            raise
        return child

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
