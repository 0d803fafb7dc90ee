"""What the operator lets the relay show to targets that want more than its certificate: `--credentials-dir`.

A route names a credential by a word; the file is `<namespace of the route>.<word>` and says to which origin it may be
sent. So whoever writes a route, or buys one, can neither read a credential nor have it sent elsewhere.
"""

from __future__ import annotations

from base64 import b64encode
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, model_validator

from crds.egress import PORTS
from crds.models.base import Model
from router_manager.domain.table import Way

_MAX_FILE_BYTES = 16 << 10
_MAX_KEPT = 1024

Secret = Annotated[Annotated[str, Field(min_length=1, max_length=8192, pattern=r"^[ -~]+$")] | None, Field(repr=False)]


class CredentialError(OSError):
    """The credential of a route cannot be used; never says what is in it."""


class Credential(Model):
    """A token, or user name and password, for one origin.

    Attributes:
        origin: `https://host[:port]`, `mqtts://host[:port]` or `kafka://host:port,host:port`.
    """

    origin: Annotated[str, Field(max_length=2048, pattern=r"^[a-z]+://[^/?#@]+$")]
    token: Secret = None
    username: Secret = None
    password: Secret = None

    @model_validator(mode="after")
    def _token_or_password(self) -> Self:
        if (self.token is None) == (self.username is None) or (self.username is None) != (self.password is None):
            raise ValueError("must have either token, or username and password")
        _places(self.origin)
        return self

    @property
    def authorization(self) -> str:
        """Of an HTTP request (RFC 6750, RFC 7617)."""
        if self.token is not None:
            return f"Bearer {self.token}"
        return "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode()

    def is_for(self, location: str) -> bool:
        """Whether it may be sent to this URL."""
        return _places(location) <= _places(self.origin)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file as it was read."""

    version: tuple[int, int, int]
    credential: Credential = field(repr=False)


class Credentials:
    """The folder. Files are read when they are needed, and again when they changed."""

    def __init__(self, directory: Path | None) -> None:
        """Use this folder; None knows no credentials."""
        self._directory = directory
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def of(self, way: Way) -> Credential | None:
        """What is to be shown to the target of a lane; None where its route asks for nothing.

        Raises:
            CredentialError: it is missing, damaged, or for somebody else.
        """
        target = way.target
        if target.credential is None:
            return None
        name = f"{way.route.namespace}.{target.credential}"
        credential = self._read(name)
        if not credential.is_for(way.location):
            raise CredentialError(f"credential {name} is not for {way.location}, but for {credential.origin}")
        return credential

    def _read(self, name: str) -> Credential:
        if self._directory is None:
            raise CredentialError(f"credential {name}: the relay has no --credentials-dir")
        path = self._directory / name
        kept = self._kept.pop(name, None)
        try:
            stat = path.stat()
            version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if kept is None or kept.version != version:
                with path.open("rb") as file:
                    kept = _Kept(version, _parsed(name, file.read(_MAX_FILE_BYTES + 1)))
        except CredentialError:
            raise
        except OSError as error:
            raise CredentialError(f"credential {name}: {error.strerror} in --credentials-dir") from error
        self._kept[name] = kept
        if len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return kept.credential


def _parsed(name: str, data: bytes) -> Credential:
    if len(data) > _MAX_FILE_BYTES:
        raise CredentialError(f"credential {name} has more than {_MAX_FILE_BYTES} bytes")
    try:
        return Credential.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CredentialError(f"credential {name}: {where}: {first['msg']}") from None


def _places(url: str) -> set[tuple[str, str, int]]:
    """Scheme, host and port of each server that a URL names.

    Raises:
        ValueError: a port that is none.
    """
    whole = urlsplit(url)
    servers = [urlsplit(f"//{server}") for server in whole.netloc.split(",")]
    return {(whole.scheme, server.hostname or "", server.port or PORTS.get(whole.scheme, 0)) for server in servers}
