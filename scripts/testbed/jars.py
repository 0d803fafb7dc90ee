"""The jars of the testbed's Kafka: fetched once for this user with Maven, as `scripts/kafka/pom.xml` pins them.

`SHA256SUMS` beside it names each jar's digest: a repository cannot hand out another one, nor one more.

    python -m scripts.testbed.jars     # fetches what is missing and prints the folder
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from scripts.testbed.binaries import cache_folder
from scripts.testbed.console import progress
from scripts.testbed.errors import BinaryError

PROJECT: Final = Path(__file__).resolve().parent.parent / "kafka"
COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
FETCH_LIMIT_SECONDS: Final = 600.0


def ensure(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder with all jars. Of two runs at once, one fetches and the other waits.

    Raises:
        BinaryError: there is no Maven, it cannot fetch them, or they are not those of SHA256SUMS.
    """
    sums = (PROJECT / "SHA256SUMS").read_bytes()
    folder = cache_folder(environment) / "kafka" / hashlib.sha256(sums).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as scratch:
                draft = Path(scratch) / "jars"
                _fetch(draft, environment)
                _verify(draft, sums.decode())
                draft.rename(folder)  # whole or not at all
    return folder


def _fetch(folder: Path, environment: Mapping[str, str]) -> None:
    maven = shutil.which("mvn", path=environment.get("PATH"))
    if maven is None:
        raise BinaryError("Kafka's jars come with Maven, which is not installed; on Debian: apt-get install maven")
    options = ["--batch-mode", "--quiet", f"--file={PROJECT / 'pom.xml'}"]
    command = [maven, *options, COPY, "-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    with progress("fetching Kafka's jars, once for this user", expected="1 min"):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=environment, timeout=FETCH_LIMIT_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise BinaryError(f"Maven did not fetch Kafka's jars within {FETCH_LIMIT_SECONDS:g} s") from error
    if done.returncode != 0:
        raise BinaryError(f"Maven cannot fetch Kafka's jars:\n{(done.stdout + done.stderr).strip()[-2000:]}")


def _verify(folder: Path, sums: str) -> None:
    expected = {name: digest for digest, name in map(str.split, sums.splitlines())}
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in folder.iterdir()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise BinaryError(f"not what scripts/kafka/SHA256SUMS says: {', '.join(wrong)}")


if __name__ == "__main__":
    print(ensure())
