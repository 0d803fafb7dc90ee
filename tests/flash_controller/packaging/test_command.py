"""The command, as people and pipelines type it, on the example of the documentation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, PublicFormat

from flash_controller.cli import PASSWORD, main
from flash_controller.packaging.login import logged_in
from scripts.testbed.manifests import REPOSITORY
from scripts.testbed.registry import Registry

EXAMPLE = REPOSITORY / "docs" / "examples" / "cortex-m"
PIPELINE = REPOSITORY / "flash_controller" / "packaging" / "pipeline.sh"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example, where imgtool is on the PATH as in a developer's environment."""
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return Path(shutil.copytree(EXAMPLE, tmp_path / "source"))


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A signing key with a password; `<name>.pub` is the public one."""
    monkeypatch.setenv(PASSWORD, "s3cret")
    private = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "maker"
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"s3cret")))
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)
    return path


def test_firmware_for_two_cortex_m_boards_is_built_packaged_pushed_signed_and_shown(
    source: Path, key: Path, registry: Registry, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    layout, repository = str(source / "layout"), f"{registry.host}/{path}"

    def said(*arguments: str) -> str:
        assert main(arguments) == 0, capfd.readouterr().err
        return capfd.readouterr().out.strip()

    digest = said("package", str(source / "firmware.yaml"), "--output", layout)
    published = said("push", layout, repository, "--tag", "stable", "--plain-http")
    assert published == f"{repository}@{digest}"
    assert said("sign", f"{repository}:stable", "--key", str(key), "--plain-http") == published
    shown = orjson.loads(said("inspect", published, "--key", f"{key}.pub", "--json", "--plain-http"))
    assert (shown["digest"], shown["signedBy"], shown["securityCounter"]) == (digest, "maker.pub", 2)
    assert [board["board"] for board in shown["boards"]] == ["nrf52840dk", "mps2_an385"]
    assert [sensor["model"] for sensor in shown["sensors"]] == ["HTS221"]

    image = source / "build" / "nrf52840dk.bin"
    assert b"thermo 1.2.3 for nrf52840dk" in image.read_bytes()
    assert shown["boards"][0]["measurement"] in said("inspect", str(image))
    assert "board mps2_an385" in said("inspect", f"{repository}:1.2.3", "--plain-http")


def test_a_pipeline_says_what_it_published(source: Path, key: Path, registry: Registry, path: str) -> None:
    told = {
        "FLUIDOS_FLASH": f"{sys.executable} -m flash_controller.cli",
        "FIRMWARE_RECIPE": str(source / "firmware.yaml"),
        "FIRMWARE_REPOSITORY": f"{registry.host}/{path}",
        "FIRMWARE_KEY": str(key),
        "FIRMWARE_VERSION": "1.3.0",
    }
    command = ["sh", str(PIPELINE), "--plain-http"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **told}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    published = done.stdout.strip()
    assert published.startswith(f"{registry.host}/{path}@sha256:")
    assert main(["inspect", published, "--key", f"{key}.pub", "--plain-http"]) == 0


def test_a_build_that_fails_ends_it(source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (source / "main.c").write_text("int main(")
    assert main(["package", str(source / "firmware.yaml"), "--output", str(source / "layout")]) == 1
    assert "the build for board nrf52840dk failed" in capfd.readouterr().err
    assert not (source / "layout").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("package", "nowhere.yaml", "-o", "layout"), "nowhere.yaml"),
        (("push", "layout", "noregistry"), "repository"),
        (("push", "nowhere", "localhost:1/a"), "an OCI image layout"),
        (("sign", "localhost:1/a:b", "--key", "nowhere"), "nowhere"),
        (("inspect", "localhost:1/a@sha256:ab"), "digest"),
        (("inspect", "localhost:1/a"), "registry/path:tag"),
    ],
)
def test_wrong_input_is_told_by_name(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flag", "field"), [("--security-counter=-1", "securityCounter"), ("--version=1 2", "version")]
)
def test_what_a_flag_says_instead_of_the_recipe_is_checked_like_it(
    flag: str, field: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "image").write_bytes(b"firmware")
    (tmp_path / "firmware.yaml").write_text("{application: a, version: 1.0.0, boards: {b: {image: image}}}")
    assert main(["package", str(tmp_path / "firmware.yaml"), "-o", str(tmp_path / "layout"), flag]) == 2
    assert f"error: {field}: " in capfd.readouterr().err


def test_a_registry_without_tls_is_told_from_one_with_another_certificate(
    registry: Registry, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", f"{registry.host}/{path}:1.0.0"]) == 1
    assert "--plain-http" in capfd.readouterr().err


def test_a_package_that_nobody_signed_is_not_shown_as_signed(
    source: Path, key: Path, registry: Registry, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (source / "x.bin").write_bytes(b"code")
    (source / "plain.yaml").write_text("{application: a, version: 1.0.0, boards: {b: {image: x.bin}}}")
    reference = f"{registry.host}/{path}"
    assert main(["package", str(source / "plain.yaml"), "-o", str(source / "layout")]) == 0
    assert main(["push", str(source / "layout"), reference, "--plain-http"]) == 0
    assert main(["inspect", f"{reference}:1.0.0", "--key", f"{key}.pub", "--plain-http"]) == 1
    assert "is not signed" in capfd.readouterr().err


@pytest.mark.parametrize(("answer", "user"), [("edge", "edge"), ("<token>", "")])
def test_a_credential_helper_is_asked(answer: str, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-test"
    helper.write_text(f"""#!/bin/sh\nread -r registry\necho '{{"Username": "{answer}", "Secret": "s3cret"}}'\n""")
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text('{"auths": {"registry.test": {}}, "credsStore": "test"}')
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), os.environ["PATH"]]))
    login = logged_in("registry.test/a", {"DOCKER_CONFIG": str(tmp_path)}).login("registry.test/a")
    assert login is not None
    assert (login.username, login.password or login.identity_token) == (user, "s3cret")
