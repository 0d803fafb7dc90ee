"""Where programs are taken from, and what is refused."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.testbed import build
from scripts.testbed.archive import ArchiveError, fetch
from scripts.testbed.binaries import OLDEST, Binaries, cache_folder, version
from scripts.testbed.errors import BinaryError
from scripts.testbed.processes import free_port

SAYS = {
    "etcd": "etcd Version: {}.0",
    "kube-apiserver": "Kubernetes v{}.0",
    "kube-controller-manager": "Kubernetes v{}.0",
    "kubectl": "Client Version: v{}.0",
}


def script(name: str, number: str) -> bytes:
    return f"#!/bin/sh\necho '{SAYS[name].format(number)}'\n".encode()


def put(folder: Path, name: str, number: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_bytes(script(name, number))
    program.chmod(0o755)
    return program


def new_enough(name: str) -> str:
    return "3.7" if name == "etcd" else "1.36"


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, str]:
    """An environment whose cache holds every program, so that nothing is ever built."""
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    for name in OLDEST:
        put(build.output_folder(cache_folder(environment)), name, new_enough(name))
    return environment


def archive(folder: Path, *members: tuple[str, bytes]) -> str:
    """Writes `archive.tar.gz` and returns its SHA-512."""
    file = folder / "archive.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return hashlib.sha512(file.read_bytes()).hexdigest()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL that it is served under."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/archive.tar.gz"
        server.shutdown()


def test_the_assets_folder_comes_first_and_the_cache_fills_its_gaps(cache: dict[str, str], tmp_path: Path) -> None:
    etcd = put(tmp_path / "assets", "etcd", "3.6")
    found = Binaries.find(cache | {"KUBEBUILDER_ASSETS": str(tmp_path / "assets")})
    assert found.etcd == etcd
    assert found.kube_apiserver == build.output_folder(cache_folder(cache)) / "kube-apiserver"


def test_an_assets_folder_that_is_not_there_is_named(cache: dict[str, str]) -> None:
    with pytest.raises(BinaryError, match="KUBEBUILDER_ASSETS=/no/such/folder: no such folder"):
        Binaries.find(cache | {"KUBEBUILDER_ASSETS": "/no/such/folder"})


def test_assets_that_are_too_old_are_refused(cache: dict[str, str], tmp_path: Path) -> None:
    put(tmp_path / "assets", "kube-apiserver", "1.29")
    with pytest.raises(BinaryError, match=r"assets: kube-apiserver is 1\.29, 1\.34 or newer is needed"):
        Binaries.find(cache | {"KUBEBUILDER_ASSETS": str(tmp_path / "assets")})


def test_a_program_on_path_is_used_only_when_new_enough(cache: dict[str, str], tmp_path: Path) -> None:
    path = {"PATH": f"{tmp_path / 'bin'}:{cache['PATH']}"}
    kubectl = put(tmp_path / "bin", "kubectl", "1.35")
    put(tmp_path / "bin", "kube-apiserver", "1.33")
    found = Binaries.find(cache | path)
    assert found.kubectl == kubectl
    assert found.kube_apiserver.parent == build.output_folder(cache_folder(cache))


def test_a_program_that_states_no_version_is_an_error(tmp_path: Path) -> None:
    program = put(tmp_path, "etcd", "3.7")
    program.write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(BinaryError, match="does not state its version: hello"):
        version(program)


def test_an_archive_gives_what_is_missing(cache: dict[str, str], served: tuple[Path, str]) -> None:
    folder, url = served
    (build.output_folder(cache_folder(cache)) / "etcd").unlink()
    digest = archive(folder, ("controller-tools/envtest/etcd", script("etcd", "3.6")))
    environment = cache | {"FLUIDOS_EDGE_ENVTEST_URL": url, "FLUIDOS_EDGE_ENVTEST_SHA512": digest}
    found = Binaries.find(environment)
    assert version(found.etcd) == (3, 6)
    (folder / "archive.tar.gz").unlink()
    assert Binaries.find(environment).etcd == found.etcd  # from the cache, now


def test_an_archive_with_another_checksum_is_refused_before_it_is_unpacked(
    served: tuple[Path, str], tmp_path: Path
) -> None:
    folder, url = served
    archive(folder, ("etcd", script("etcd", "3.6")))
    with pytest.raises(ArchiveError, match=rf"SHA-512 is [0-9a-f]{{128}}, expected {'0' * 128}"):
        fetch(url, sha512="0" * 128, cache=tmp_path / "cache", wanted=OLDEST)
    assert list((tmp_path / "cache" / "bin").iterdir()) == []


@pytest.mark.parametrize("digest", ["", "abc"])
def test_an_archive_without_a_checksum_is_refused(digest: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="FLUIDOS_EDGE_ENVTEST_SHA512 must hold"):
        fetch("http://127.0.0.1:1/", sha512=digest, cache=tmp_path, wanted=OLDEST)


def test_an_archive_that_cannot_be_reached_is_said_and_passed_over(
    cache: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (build.output_folder(cache_folder(cache)) / "etcd").unlink()
    monkeypatch.setattr(build, "ensure", lambda *_: tmp_path / "built")
    url = f"http://127.0.0.1:{free_port()}/archive.tar.gz"
    found = Binaries.find(cache | {"FLUIDOS_EDGE_ENVTEST_URL": url, "FLUIDOS_EDGE_ENVTEST_SHA512": "0" * 128})
    assert found.etcd == tmp_path / "built" / "etcd"
    assert f"not using the archive: {url}: " in capsys.readouterr().err


def test_an_archive_writes_nowhere_but_into_its_folder(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    digest = archive(folder, ("../../../etcd", script("etcd", "3.6")), ("../../evil", b"x"))
    unpacked = fetch(url, sha512=digest, cache=tmp_path / "cache", wanted=OLDEST)
    assert [file.name for file in unpacked.iterdir()] == ["etcd"]
    assert not (tmp_path / "etcd").exists()


def test_an_archive_without_a_program_is_refused(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    digest = archive(folder, ("README", b"nothing here"))
    with pytest.raises(ArchiveError, match="holds none of etcd"):
        fetch(url, sha512=digest, cache=tmp_path / "cache", wanted=OLDEST)


def test_a_file_that_is_no_archive_is_refused(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    (folder / "archive.tar.gz").write_bytes(b"hello")
    digest = hashlib.sha512(b"hello").hexdigest()
    with pytest.raises(ArchiveError, match=r"archive\.tar\.gz: not a gzip file"):
        fetch(url, sha512=digest, cache=tmp_path / "cache", wanted=OLDEST)


def test_builds_are_of_the_versions_that_go_mod_pins() -> None:
    text = (build.MODULES / "kubernetes" / "go.mod").read_text()
    pinned = build.pinned("kubernetes", "k8s.io/kubernetes")
    assert f"require k8s.io/kubernetes {pinned}\n" in text
    staging = pinned.replace("v1.", "v0.", 1)
    assert f"k8s.io/apiserver => k8s.io/apiserver {staging}\n" in text
    assert f"-X k8s.io/component-base/version.gitVersion={pinned} " in build._link_flags()


def test_a_failed_build_shows_the_compilers_words(tmp_path: Path) -> None:
    go = put(tmp_path / "bin", "etcd", "3.7").rename(tmp_path / "bin" / "go")
    go.write_text(
        '#!/bin/sh\n[ "$1" = env ] && { echo go1.26.0; exit; }\necho "flags $GOFLAGS toolchain $GOTOOLCHAIN"; exit 1\n'
    )
    with pytest.raises(BinaryError, match=r"(?s)building etcd with .*flags -mod=readonly toolchain local"):
        build.ensure(tmp_path / "cache", {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "GOFLAGS": "-mod=mod"})
