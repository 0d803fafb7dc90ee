"""Identities of a bench: one trust domain; PEM files for programs that read them, the Workload API for the relay."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from scripts.testbed.processes import Child
from spire.helper.api import serve
from spire.helper.held import Granted, Held, Latest
from spire.identity import Svid, certificates_pem
from tests.spire.pki import Ca

NODE: Final = "bench"
TRUST_DOMAIN: Final = "site.bench"


@dataclass(frozen=True, slots=True)
class Pem:
    """Files of one holder: certificate chain, key, and the roots of those whom it believes."""

    certificate: Path
    key: Path
    roots: Path

    @classmethod
    def at(cls, directory: Path, name: str) -> Self:
        """Files that begin with a name."""
        return cls(*(directory / f"{name}.{end}" for end in ("pem", "key", "roots")))

    def write(self, svid: Svid, *, roots: Sequence[bytes]) -> None:
        """Make the files; roots are in DER."""
        self.certificate.write_text(svid.chain_pem)
        self.key.write_text(svid.key_pem)
        self.roots.write_text(certificates_pem(roots))

    @property
    def flags(self) -> list[str]:
        """As `gauge` takes them."""
        return ["-cert", str(self.certificate), "-key", str(self.key), "-ca", str(self.roots)]


@dataclass(frozen=True, slots=True)
class Identities:
    """What a run with TLS on all sides needs."""

    broker: Pem
    sink: Pem
    client: Pem
    socket: Path
    """Of the Workload API that gives the relay its identity."""


@contextmanager
def identities(directory: Path) -> Iterator[Identities]:
    """Files in a folder and a socket beside them, until the context is closed."""
    found = _in(directory)
    command = [sys.executable, "-m", "benchmarks.relay_identities", str(directory)]
    with Child(name="identities", command=command, directory=Path(__file__).parent.parent, logs=directory) as child:
        child.wait_until(found.socket.is_socket, what="Workload API", limit=20)
        yield found


def _in(directory: Path) -> Identities:
    broker, sink, client = (Pem.at(directory, name) for name in ("broker", "sink", "client"))
    return Identities(broker=broker, sink=sink, client=client, socket=directory / "workload" / "api.sock")


async def _serve(directory: Path) -> None:
    """In a process of its own: gRPC's threads do not survive the forks of one that starts others."""
    authority, here = Ca.of(TRUST_DOMAIN), _in(directory)
    for pem, path in (
        (here.broker, f"/broker/{NODE}"),
        (here.sink, "/endpoint/bench"),
        (here.client, "/manager/bench"),
    ):
        # The name is for clients that know hosts and no SPIFFE IDs.
        pem.write(authority.svid(path, names=["localhost"]), roots=[authority.root])
    async with serve(here.socket, Latest[Held](Granted(authority.identity(f"/relay/{NODE}")))):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
