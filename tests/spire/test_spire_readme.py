"""The examples of spire/README.md: read by our settings, and by SPIRE itself where there is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from crds.models.base import Model, validate
from spire.plugins.agent_attestor import AgentSettings
from spire.plugins.attestor import AttestorSettings
from spire.plugins.composer import ComposerSettings
from spire.plugins.settings import parse_json
from tests.spire.real_spire import AGENT, SERVER, needs_agent, needs_server
from tests.spire.support import ACME, BOOT, GOOD

REPOSITORY = Path(__file__).resolve().parent.parent.parent
README = REPOSITORY / "spire" / "README.md"
ROOT: str = ACME.certificate.public_bytes(Encoding.PEM).decode()
WORDS = {
    "-----BEGIN CERTIFICATE-----\\n...\\n-----END CERTIFICATE-----\\n": ROOT.replace("\n", "\\n"),
    "64 bytes in hex, of the boot loader": BOOT.hex(),
    "64 bytes in hex, of the application": GOOD.hex(),
}
"""What the examples leave to the reader."""


def example(name: str) -> str:
    """The block of the README after the mark of this name."""
    found = re.search(rf"<!-- test: {re.escape(name)} -->\n```\w+\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None, name
    text = found[1]
    for word, meant in WORDS.items():
        text = text.replace(word, meant)
    return text


def here(text: str, folder: Path) -> str:
    """With paths of this machine."""
    text = text.replace("/opt/fluidos-edge/bin/python", sys.executable)
    return re.sub(r'"/(etc|var/lib|run|usr/local/bin)/', f'"{folder}/', text)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("json attestor", AttestorSettings), ("json composer", ComposerSettings), ("json agent", AgentSettings)],
)
def test_plug_ins_can_read_their_examples(name: str, settings: type[Model]) -> None:
    validate(settings, parse_json(example(name)), field="plugin_data_file")


@needs_server
@pytest.mark.parametrize("federated", [False, True])
def test_spire_accepts_the_server_s_examples(tmp_path: Path, federated: bool) -> None:
    text = example("server.conf")
    if federated:
        text = text.replace("}\nplugins", f"{example('federation')}}}\nplugins")
    files = {"server.conf": text, "spire/dice-attestor.json": example("json attestor")}
    validated(str(SERVER), "server.conf", {**files, "spire/dice-composer.json": example("json composer")}, tmp_path)


@needs_agent
def test_spire_accepts_the_agent_s_examples(tmp_path: Path) -> None:
    files = {"agent.conf": example("agent.conf"), "spire/dice-agent.json": example("json agent")}
    validated(str(AGENT), "agent.conf", files, tmp_path)


@needs_server
def test_spire_names_what_is_wrong_in_a_policy(tmp_path: Path) -> None:
    files = {
        "server.conf": example("server.conf"),
        "spire/dice-attestor.json": example("json attestor").replace('"revoked": []', '"revoked": ["x"]'),
        "spire/dice-composer.json": example("json composer"),
    }
    with pytest.raises(subprocess.CalledProcessError) as refused:
        validated(str(SERVER), "server.conf", files, tmp_path)
    assert "revoked" in refused.value.stdout + refused.value.stderr


def validated(program: str, configuration: str, files: dict[str, str], folder: Path) -> None:
    (folder / "spire").mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(here(text, folder))
    # As if it were installed: `-P` keeps Python from looking into the working directory.
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(REPOSITORY), "MY_NODE_NAME": "edge-1"}
    command = [program, "validate", "-config", str(folder / configuration)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=environment, cwd=folder)
