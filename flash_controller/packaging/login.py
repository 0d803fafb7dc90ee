"""The logins of the person, or the pipeline, at this machine: Docker's configuration and its credential helpers."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import orjson

from crds.errors import InvalidField
from flash_controller.oci.credentials import Credentials, Login

LIMIT_SECONDS: Final = 30.0
TOKEN_USER: Final = "<token>"  # noqa: S105 - how helpers say that the secret is an identity token


def logged_in(repository: str, environment: Mapping[str, str]) -> Credentials:
    """What `docker login` and its like left for a repository's registry.

    Raises:
        InvalidField: the configuration cannot be read, or its helper fails.
    """
    folder = Path(environment.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        text = (folder / "config.json").read_bytes()
    except OSError:
        return Credentials()
    credentials = Credentials.parse(text)
    registry = repository.partition("/")[0]
    said = orjson.loads(text)
    helper = said.get("credHelpers", {}).get(registry) or said.get("credsStore")
    login = _ask(f"docker-credential-{helper}", registry) if helper else None
    return credentials if login is None else Credentials({registry: login})


def _ask(program: str, registry: str) -> Login | None:
    """What a helper has for a registry; None where it has nothing."""
    try:
        answer = subprocess.run(
            [program, "get"], input=registry.encode(), capture_output=True, timeout=LIMIT_SECONDS, check=False
        )
        if answer.returncode:
            return None
        said = orjson.loads(answer.stdout)
        user, secret = str(said["Username"]), str(said["Secret"])
    except (OSError, subprocess.TimeoutExpired, orjson.JSONDecodeError, KeyError) as error:
        raise InvalidField(field="credHelpers", value=program, expected=f"a helper that answers ({error})") from error
    return Login(identity_token=secret) if user == TOKEN_USER else Login(username=user, password=secret)
