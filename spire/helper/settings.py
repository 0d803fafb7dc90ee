"""Flags of the workload helper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, HttpUrl, field_validator

from crds.errors import InvalidField
from crds.kube.process import ProcessSettings
from spire.domain.spiffe_id import TrustDomain

_KEYS = ("name", "token-file", "socket", "files", "signal-pid-file")
_EXPECTED = "name=NAME,token-file=T and socket=S or files=DIR (with signal-pid-file=P, if a program is to be told)"
# A socket's address has 108 bytes in Linux, with a zero at its end.
_MAX_SOCKET = 107


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One program that gets an identity.

    Attributes:
        name: in logs and metrics.
        token_file: its ServiceAccount token for the audience `fluidos-edge-issuer`; read anew for each trade.
        socket: where its Workload API is, or None.
        files: folder for svid.pem, key.pem, bundle.pem and own.pem, or None.
        signal_pid_file: whose process gets a SIGHUP after the files changed, or None.
    """

    name: str
    token_file: Path
    socket: Path | None = None
    files: Path | None = None
    signal_pid_file: Path | None = None


class HelperSettings(ProcessSettings):
    """`python -m spire.helper`."""

    issuer: HttpUrl = Field(description="the issuer, as https://host:port")
    bundle_file: Path = Field(
        description="PEM roots of the own trust domain, by which the issuer is known; read again when they do not fit"
    )
    trust_domain: str | None = Field(
        default=None, description="the own trust domain; what the roots say where it is not given"
    )
    workload: tuple[str, ...] = Field(min_length=1, description=f"a program, and again for each more: {_EXPECTED}")
    issuer_seconds: Annotated[float, Field(gt=0, le=300)] = Field(
        default=30, description="limit of a trade; the issuer asks the API server meanwhile"
    )

    @field_validator("issuer")
    @classmethod
    def _is_https(cls, value: HttpUrl) -> HttpUrl:
        if value.scheme != "https":
            msg = "https://host:port"
            raise ValueError(msg)
        return value

    @property
    def domain(self) -> TrustDomain | None:
        """The trust domain that was given.

        Raises:
            InvalidField: it is none.
        """
        return None if self.trust_domain is None else TrustDomain(self.trust_domain)

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """All programs.

        Raises:
            InvalidField: names what is wrong with which of them.
        """
        workloads = tuple(_workload(pairs) for pairs in _groups(self.workload))
        _none_twice("name", [each.name for each in workloads])
        _none_twice("socket", [each.socket for each in workloads if each.socket])
        _none_twice("files", [each.files for each in workloads if each.files])
        return workloads


def _groups(parts: Iterable[str]) -> Iterator[dict[str, str]]:
    """One mapping for each workload: flags come cut at their commas, so each `name` begins a new one."""
    group: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if key not in _KEYS or not equals or not value:
            raise InvalidField(field="--workload", value=part, expected=_EXPECTED)
        if key == "name" and group:
            yield group
            group = {}
        if key in group:
            raise InvalidField(field="--workload", value=part, expected=f"{key} once for each name")
        group[key] = value
    yield group


def _workload(pairs: dict[str, str]) -> Workload:
    name, token_file = pairs.get("name"), pairs.get("token-file")
    paths = {key: Path(value) for key, value in pairs.items() if key != "name"}
    if name is None or token_file is None or not {"socket", "files"} & paths.keys():
        said = ",".join(f"{key}={value}" for key, value in pairs.items())
        raise InvalidField(field="--workload", value=said, expected=_EXPECTED)
    if "signal-pid-file" in paths and "files" not in paths:
        raise InvalidField(field=f"--workload {name}", value="signal-pid-file", expected="files=DIR beside it")
    socket = paths.get("socket")
    if socket and (not socket.is_absolute() or len(bytes(socket)) > _MAX_SOCKET):
        raise InvalidField(
            field=f"--workload {name} socket", value=str(socket), expected=f"an absolute path of at most {_MAX_SOCKET}"
        )
    return Workload(
        name=name,
        token_file=Path(token_file),
        socket=socket,
        files=paths.get("files"),
        signal_pid_file=paths.get("signal-pid-file"),
    )


def _none_twice(key: str, values: list[object]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise InvalidField(field="--workload", value=f"{key}={value}", expected="another one for each workload")
