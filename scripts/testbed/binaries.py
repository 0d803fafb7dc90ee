"""Where the control plane's programs come from.

In this order: `KUBEBUILDER_ASSETS`; PATH, when new enough; this user's cache; an archive in envtest's form, when one is
named; else they are built, once. What an earlier source lacks is looked for in the next.

    python -m scripts.testbed.binaries     # finds or builds all of them and prints their paths
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Self

from scripts.testbed import build
from scripts.testbed.archive import ArchiveError, fetch
from scripts.testbed.console import say
from scripts.testbed.errors import BinaryError
from scripts.testbed.processes import exit_on_signals

VERSION_LIMIT_SECONDS: Final = 20.0
# The oldest that serve what we use: ServiceAccount tokens bound to Nodes, resource.k8s.io/v1.
OLDEST: Final = {
    "etcd": (3, 5),
    "kube-apiserver": (1, 34),
    "kube-controller-manager": (1, 34),
    "kubectl": (1, 34),
}
VERSION: Final = re.compile(r"(?:Version:\s*v?|Kubernetes v)(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Binaries:
    """The programs of a control plane."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kubectl: Path

    @classmethod
    def find(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Finds each program, or builds it, which takes minutes once for a user.

        Args:
            environment: `KUBEBUILDER_ASSETS` (a folder), `FLUIDOS_EDGE_ENVTEST_URL` with `FLUIDOS_EDGE_ENVTEST_SHA512`
                (a tar.gz of programs), PATH, XDG_CACHE_HOME and HOME count.

        Raises:
            BinaryError: `KUBEBUILDER_ASSETS` is no folder or holds a program that is too old or does not run; a
                program can neither be found nor built.
        """
        cache = cache_folder(environment)
        found: dict[str, Path] = {}
        for name in OLDEST:
            program = (
                _in_assets(name, environment.get("KUBEBUILDER_ASSETS"))
                or _on_path(name, environment.get("PATH"))
                or _executable(build.output_folder(cache) / name)
            )
            if program is not None:
                found[name] = program
        if len(found) < len(OLDEST):
            found = _from_archive(environment, cache) | found
        if len(found) < len(OLDEST):
            built = build.ensure(cache, environment)
            found = {name: built / name for name in OLDEST} | found
        return cls(
            etcd=found["etcd"],
            kube_apiserver=found["kube-apiserver"],
            kube_controller_manager=found["kube-controller-manager"],
            kubectl=found["kubectl"],
        )


def cache_folder(environment: Mapping[str, str]) -> Path:
    """This user's folder for what is slow to get: `$XDG_CACHE_HOME/fluidos-edge`, by default below `~/.cache`."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fluidos-edge"


def version(program: Path) -> tuple[int, int]:
    """Major and minor version that the program states of itself.

    Raises:
        BinaryError: It does not run, or states none.
    """
    arguments = ["version", "--client"] if program.name == "kubectl" else ["--version"]
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=VERSION_LIMIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BinaryError(f"{program} does not run: {error}") from error
    stated = VERSION.search(done.stdout)
    if done.returncode != 0 or stated is None:
        raise BinaryError(f"{program} does not state its version: {(done.stdout + done.stderr).strip()[:200]}")
    return int(stated[1]), int(stated[2])


def _in_assets(name: str, assets: str | None) -> Path | None:
    if not assets:
        return None
    folder = Path(assets)
    if not folder.is_dir():
        raise BinaryError(f"KUBEBUILDER_ASSETS={assets}: no such folder; unset it or name one that holds etcd")
    program = _executable(folder / name)
    if program is not None and version(program) < OLDEST[name]:
        raise BinaryError(f"KUBEBUILDER_ASSETS={assets}: {name} is {_words(version(program))}, {_needed(name)}")
    return program


def _on_path(name: str, path: str | None) -> Path | None:
    program = shutil.which(name, path=path)
    return Path(program) if program is not None and _is_new_enough(Path(program)) else None


def _executable(program: Path) -> Path | None:
    return program if os.access(program, os.X_OK) else None


def _from_archive(environment: Mapping[str, str], cache: Path) -> dict[str, Path]:
    url = environment.get("FLUIDOS_EDGE_ENVTEST_URL")
    if not url:
        return {}
    try:
        folder = fetch(url, sha512=environment.get("FLUIDOS_EDGE_ENVTEST_SHA512", ""), cache=cache, wanted=OLDEST)
    except ArchiveError as error:
        say(f"not using the archive: {error}")
        return {}
    return {name: folder / name for name in OLDEST if _is_new_enough(folder / name)}


def _is_new_enough(program: Path) -> bool:
    if not program.exists():
        return False
    try:
        stated = version(program)
    except BinaryError as error:
        say(f"passing over {error}")
        return False
    return stated >= OLDEST[program.name]


def _words(number: tuple[int, int]) -> str:
    return f"{number[0]}.{number[1]}"


def _needed(name: str) -> str:
    return f"{_words(OLDEST[name])} or newer is needed"


def main() -> None:
    """Prints name and path of each program, one a line."""
    with exit_on_signals():
        binaries = Binaries.find()
    for field in fields(binaries):
        print(f"{field.name.replace('_', '-')}\t{getattr(binaries, field.name)}")


if __name__ == "__main__":
    main()
