"""Kubeconfig files, with every credential inside: they work from any folder and can be copied away."""

import base64
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts.testbed.certificates import Issued


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token."""

    value: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One context: a server, who vouches for it (PEM), and who we are there."""

    context: str
    url: str
    ca: bytes
    credential: Issued | Token
    namespace: str = "default"


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Writes one file with a context each, the first being current; replaced at once, readable by its owner alone."""
    entries = list(entries)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": entries[0].context if entries else "",
        "clusters": [
            {"name": each.context, "cluster": {"server": each.url, "certificate-authority-data": _text(each.ca)}}
            for each in entries
        ],
        "users": [{"name": each.context, "user": _user(each.credential)} for each in entries],
        "contexts": [
            {
                "name": each.context,
                "context": {"cluster": each.context, "user": each.context, "namespace": each.namespace},
            }
            for each in entries
        ],
    }
    draft = path.with_name(f".{path.name}.new")
    draft.touch(mode=0o600)
    draft.write_text(yaml.safe_dump(config, sort_keys=False))
    os.replace(draft, path)


def _user(credential: Issued | Token) -> dict[str, Any]:
    match credential:
        case Issued(certificate, key):
            return {"client-certificate-data": _text(certificate), "client-key-data": _text(key)}
        case Token(value):
            return {"token": value}


def _text(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
