"""Whose firmware a site takes: the content of ConfigMap `fluidos-edge-firmware`, key `policy.yaml`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from crds.models.base import Distinct
from crds.models.written import Written

CONFIG_MAP: Final = "fluidos-edge-firmware"
KEY: Final = "policy.yaml"

PublicKey = Annotated[str, Field(max_length=4096, pattern=r"-----BEGIN PUBLIC KEY-----")]
ApplicationGlob = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9._*-]+$")]
"""A name of applications in which `*` stands for anything."""

ApplicationGlobs = Annotated[tuple[ApplicationGlob, ...], Field(min_length=1, max_length=256)]
Registry = Annotated[str, Field(max_length=261, pattern=r"^[a-z0-9.\[\]:-]+$")]


class SigningKey(Written):
    """Somebody whose signature counts."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    """As a Firmware's status shows it."""
    public_key: PublicKey
    """Of ECDSA on P-256, in PEM, as `cosign generate-key-pair` writes it."""
    applications: ApplicationGlobs
    """The applications that it may sign."""


class Applications(Written):
    """Which may run here at all."""

    allow: ApplicationGlobs = ("*",)


RepositoryGlob = Annotated[str, Field(max_length=512, pattern=r"^[a-z0-9.:/_*-]+$")]
"""A name of repositories, `registry/path`, in which `*` stands for anything."""


class Repositories(Written):
    """Which are asked at all: whoever may create a Firmware has us knock at what it names."""

    allow: Annotated[tuple[RepositoryGlob, ...], Field(min_length=1, max_length=256)] = ("*",)


class FirmwarePolicy(Written):
    """Everything that must hold of firmware. What is not said accepts nothing."""

    keys: Annotated[tuple[SigningKey, ...], Field(max_length=256), Distinct("name")] = ()
    unsigned: Literal["Refuse", "Allow"] = "Refuse"
    """Allow takes firmware that nobody signed; a signature that is there and wrong is refused all the same."""
    plain_http: Annotated[tuple[Registry, ...], Field(alias="plainHTTP", max_length=64)] = ()
    """Registries (`host[:port]`) that may be asked without TLS."""
    applications: Applications = Applications()
    repositories: Repositories = Repositories()
