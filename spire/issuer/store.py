"""Where the issuer keeps what it must not lose: a document in a directory, or in a Secret.

Two promises hold for both. A document is the old one or the new one at any time, whatever is killed. And nobody writes
over what it has not seen: two issuers can never have two authorities for one trust domain.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from crds.errors import Retryable, Terminal
from crds.kube.client import AlreadyExists, Conflict, Kind, Kube, NotFound, Object

SECRETS: Final = Kind("v1", "secrets")

_KEY: Final = "document"
_MANAGED: Final = {"app.kubernetes.io/managed-by": "identity-issuer"}


class Changed(Retryable):
    """Somebody else wrote since `load`: load again, and decide again."""


class Store(Protocol):
    """One document."""

    async def load(self) -> bytes | None:
        """The document; None where there is none yet.

        Raises:
            EdgeError: it cannot be read now, or at all.
        """

    async def save(self, document: bytes) -> None:
        """Write it; it is durable when this returns.

        Raises:
            Changed: it is not what `load` or `save` saw last.
            EdgeError: it may or may not have been written: load again.
        """


class FileStore:
    """A file, readable for its owner alone. `locked` keeps its directory for one process.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self) -> bytes | None:
        """See `Store`."""
        try:
            return await asyncio.to_thread(self._path.read_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Terminal(f"{self._path}: {error.strerror}", reason="StoreFailed") from error

    async def save(self, document: bytes) -> None:
        """See `Store`."""
        try:
            await asyncio.to_thread(self._write, document)
        except OSError as error:
            raise Retryable(f"{self._path}: {error.strerror}") from error

    def _write(self, document: bytes) -> None:
        # What is left of a write that was cut off has this name as well, and is written over.
        replacement = self._path.with_name(f"{self._path.name}.new")
        with os.fdopen(os.open(replacement, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(document)
            file.flush()
            os.fsync(file.fileno())
        os.rename(replacement, self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)  # the name is durable only with it
        finally:
            os.close(directory)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Make a directory ours alone, for as long as the context and this process live.

    Raises:
        Terminal: another process has it, or it cannot be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Terminal(f"{directory}: {error.strerror}", reason="StoreFailed") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 32, 0).decode(errors="replace")
            raise Terminal(
                f"{directory}: another issuer works on it (process {holder})", reason="StoreInUse"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


class SecretStore:
    """A Secret; each write says which version it replaces.

    Args:
        kube: the API server.
        namespace: of the Secret.
        name: of the Secret.
    """

    def __init__(self, kube: Kube, *, namespace: str, name: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._version: str | None = None

    async def load(self) -> bytes | None:
        """See `Store`."""
        try:
            secret = await self._kube.request("GET", SECRETS.path(namespace=self._namespace, name=self._name))
        except NotFound:
            self._version = None
            return None
        try:
            document = b64decode(secret["data"][_KEY], validate=True)
        except (KeyError, TypeError, ValueError) as error:
            where = f"Secret {self._namespace}/{self._name}"
            raise Terminal(f"{where} has no readable data.{_KEY}: {error!r}", reason="StoreDamaged") from error
        self._version = str(secret["metadata"]["resourceVersion"])
        return document

    async def save(self, document: bytes) -> None:
        """See `Store`."""
        metadata: Object = {"name": self._name, "namespace": self._namespace, "labels": _MANAGED}
        body: Object = {"metadata": metadata, "type": "Opaque", "data": {_KEY: b64encode(document).decode()}}
        query = {"fieldManager": "identity-issuer"}
        try:
            if self._version is None:
                answer = await self._kube.request(
                    "POST", SECRETS.path(namespace=self._namespace), query=query, body=body
                )
            else:
                metadata["resourceVersion"] = self._version
                path = SECRETS.path(namespace=self._namespace, name=self._name)
                answer = await self._kube.request("PUT", path, query=query, body=body)
        except (AlreadyExists, Conflict, NotFound) as error:
            raise Changed(str(error)) from error
        self._version = str(answer["metadata"]["resourceVersion"])


def write_public(path: Path, text: str) -> None:
    """Write a file that others read: they see all of it or none.

    Raises:
        Retryable: the file system refuses.
    """
    replacement = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        replacement.write_text(text)
        os.replace(replacement, path)
    except OSError as error:
        with suppress(OSError):
            replacement.unlink(missing_ok=True)
        raise Retryable(f"{path}: {error.strerror}") from error
