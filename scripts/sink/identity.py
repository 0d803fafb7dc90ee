"""The sink's identity from files: svid.pem, key.pem and bundle.pem, as the identity helper writes and renews them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from crds.errors import InvalidField
from scripts.testbed.console import say
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.identity import FixedIdentity, Identity, IdentitySource, Svid

FILES: Final = ("svid.pem", "key.pem", "bundle.pem")
LOOK_SECONDS: Final = 0.5


def read_identity(directory: Path) -> Identity:
    """What the files hold now. The roots are told apart by the trust domain that each names.

    Raises:
        OSError: a file is not there.
        ValueError: it is not what its name says, or another SVID's key.
    """
    chain = _parsed(directory / "svid.pem", x509.load_pem_x509_certificates)
    private = _parsed(directory / "key.pem", partial(load_pem_private_key, password=None))
    if private.public_key() != chain[0].public_key():
        raise ValueError("key.pem is not the key of svid.pem")
    roots: dict[TrustDomain, tuple[bytes, ...]] = {}
    for root in _parsed(directory / "bundle.pem", x509.load_pem_x509_certificates):
        domain = _trust_domain(root)
        roots[domain] = (*roots.get(domain, ()), root.public_bytes(Encoding.DER))
    key = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    try:
        return Identity(svid=Svid.parse([each.public_bytes(Encoding.DER) for each in chain], key=key), bundles=roots)
    except InvalidField as error:
        raise ValueError(f"svid.pem: {error}") from error


@asynccontextmanager
async def identity_in(directory: Path | None) -> AsyncIterator[IdentitySource | None]:
    """The identity in a folder, renewed when its files change; None where there is no folder.

    Raises:
        OSError, ValueError: as `read_identity`, of what is there at first.
    """
    if directory is None:
        yield None
        return
    stamps = _stamps(directory)
    source = FixedIdentity(read_identity(directory))
    renewal = asyncio.create_task(_renew(directory, source, stamps))
    try:
        yield source
    finally:
        renewal.cancel()


async def _renew(directory: Path, source: FixedIdentity, seen: list[int | None]) -> None:
    """Files change one after the other: a set that does not fit yet waits for the rest of it."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = _stamps(directory)
        if now == seen:
            continue
        seen = now
        try:
            source.replace(read_identity(directory))
        except (OSError, ValueError) as error:
            say(f"sink: {directory}: {error}")


def _stamps(directory: Path) -> list[int | None]:
    return [_stamp(directory / name) for name in FILES]


def _stamp(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


T = TypeVar("T")


def _parsed(file: Path, parse: Callable[[bytes], T]) -> T:
    data = file.read_bytes()
    try:
        return parse(data)
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error


def _trust_domain(root: x509.Certificate) -> TrustDomain:
    try:
        names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        [uri] = names.get_values_for_type(x509.UniformResourceIdentifier)
        return SpiffeId.parse(uri).trust_domain
    except (x509.ExtensionNotFound, ValueError, InvalidField) as error:
        raise ValueError(f"a root in bundle.pem names no trust domain: {error}") from error
