"""Names and passwords at registries, as Docker's configuration has them: pull secrets, and `docker login` of people."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import orjson

from crds.errors import InvalidField
from flash_controller.reasons import PackageReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who asks.

    Attributes:
        username: empty where there is an identity token.
        password: of that user.
        identity_token: which a token service trades for access (OAuth 2 refresh token).
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Logins by registry, or by the beginning of a repository, as kubelets read them."""

    logins: Mapping[str, Login] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """From a Docker configuration: the content of `.dockerconfigjson`, or `config.json`.

        Raises:
            InvalidField: names the entry that is wrong, and shows nothing of it.
        """
        try:
            auths = orjson.loads(text).get("auths", {})
            # Entries whose secret a credential helper keeps are empty.
            return cls({_place(server): _login(server, entry) for server, entry in auths.items() if entry})
        except (orjson.JSONDecodeError, AttributeError) as error:
            raise _invalid("dockerconfigjson", "a JSON object with auths") from error

    def login(self, repository: str) -> Login | None:
        """The login whose place is the longest beginning of `registry/path`."""
        places = [place for place in self.logins if f"{repository}/".startswith(f"{place}/")]
        return self.logins[max(places, key=len)] if places else None


def _place(server: str) -> str:
    """`https://registry/v1/` is how Docker writes a registry."""
    place = server.removeprefix("https://").removeprefix("http://").rstrip("/")
    place = place.removesuffix("/v1").removesuffix("/v2")
    return "docker.io" if place == "index.docker.io" else place


def _login(server: str, entry: object) -> Login:
    where = f"dockerconfigjson.auths[{server}]"
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise _invalid(where, "an object of strings")
    if entry.get("identitytoken"):
        return Login(identity_token=entry["identitytoken"])
    if not entry.get("auth"):
        return Login(username=entry.get("username", ""), password=entry.get("password", ""))
    try:
        username, colon, password = base64.b64decode(entry["auth"]).decode().partition(":")
    except ValueError as error:
        raise _invalid(f"{where}.auth", "user:password in base64") from error
    if not colon:
        raise _invalid(f"{where}.auth", "user:password in base64")
    return Login(username=username, password=password)


def _invalid(where: str, expected: str) -> InvalidField:
    return InvalidField(field=where, value="(not shown)", expected=expected, reason=PackageReason.INVALID_CREDENTIALS)
