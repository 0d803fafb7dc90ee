"""An identity as PEM files, for programs that read files: mosquitto, Telegraf, nginx."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import structlog

from spire.identity import Identity, certificates_pem

_log = structlog.get_logger(__name__)

_POOL_NOTE = """\
# Roots of the own trust domain and of all federated ones, in one pool: any of them can sign any SPIFFE ID. A program
# that checks against this file must look up the peer's trust domain by other means. The own roots alone: own.pem.
"""


def files_of(identity: Identity) -> dict[str, str]:
    """Contents by file name, in the order in which they are to be written."""
    own = identity.bundles.get(identity.svid.spiffe_id.trust_domain, ())
    pool = (
        f"# {domain}\n{certificates_pem(roots)}"
        for domain, roots in sorted(identity.bundles.items(), key=lambda item: item[0])
    )
    return {
        "own.pem": certificates_pem(own),
        "bundle.pem": _POOL_NOTE + "".join(pool),
        "key.pem": identity.svid.key_pem,
        "svid.pem": identity.svid.chain_pem,
    }


def write(folder: Path, identity: Identity) -> None:
    """Write the files that change, each at once and for the own user only.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in files_of(identity).items():
        # A program that has to be restarted for new roots is, by whoever watches own.pem, for new roots only.
        if _holds(folder / name, text):
            continue
        draft = folder / f".{name}.{os.getpid()}"
        draft.unlink(missing_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / name)


def _holds(file: Path, text: str) -> bool:
    try:
        return file.read_text() == text
    except FileNotFoundError:
        return False


def tell(pid_file: Path) -> None:
    """Have the program whose pid is in the file read its files again; one that does not run yet will by itself."""
    try:
        pid = int(pid_file.read_text())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        _log.warning("no pid to signal", file=str(pid_file), error=str(error))
        return
    if pid <= 1:
        _log.warning("no pid to signal", file=str(pid_file), pid=pid)
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGHUP)
