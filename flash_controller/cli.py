"""`kubectl fluidos flash`: packages of firmware made, pushed, signed and looked at.

Standard output has the result alone, for pipelines; a package is named as `registry/path@sha256:...`. Passwords of
registries are those of `docker login` and its like.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from crds.errors import EdgeError, InvalidField, Terminal
from crds.models.base import invalid_field, validate
from crds.models.firmware import Digest, Repository, Tag
from flash_controller.domain.composition import compose
from flash_controller.domain.images import read_image
from flash_controller.domain.recipe import Recipe
from flash_controller.domain.signatures import private_key, verified_by
from flash_controller.oci.catalog import read_package, resolve, signatures
from flash_controller.oci.registry import Registry
from flash_controller.packaging.build import build
from flash_controller.packaging.inspection import as_text, describe_image, describe_package, package_of
from flash_controller.packaging.layout import load, save
from flash_controller.packaging.login import logged_in
from flash_controller.reasons import FirmwareReason

PASSWORD: Final = "FIRMWARE_KEY_PASSWORD"  # noqa: S105 - the name of a variable
_TAG: Final[TypeAdapter[str]] = TypeAdapter(Tag)
_DIGEST: Final[TypeAdapter[str]] = TypeAdapter(Digest)
_REPOSITORY: Final[TypeAdapter[str]] = TypeAdapter(Repository)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 when it is done, 1 when something else refused or failed, 2 for bad input."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], str] = options.command
    try:
        said = command(options)
    except InvalidField as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except EdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(said)
    return 0


def _package(options: argparse.Namespace) -> str:
    path: Path = options.recipe
    said = Recipe.parse_yaml(_text(path), field=path.name)
    given = {"version": options.version, "securityCounter": options.security_counter}
    instead = {name: value for name, value in given.items() if value is not None}
    recipe = validate(Recipe, said.model_dump(by_alias=True, exclude_unset=True) | instead)
    layout = compose(recipe, build(recipe, path.parent))
    save(layout, options.output)
    return layout.index.digest


def _push(options: argparse.Namespace) -> str:
    repository, tag, digest = _parts(options.repository)
    if digest:
        raise InvalidField(field="repository", value=options.repository, expected="registry/path, or registry/path:tag")
    layout = load(options.layout)
    # A tag has no `+`.
    tags = (tag or str(package_of(layout).facts.version).replace("+", "_"), *options.tag)
    for each in tags:
        _checked(_TAG, each, "tag")

    async def work() -> str:
        from flash_controller.packaging.publish import push  # noqa: PLC0415 - oras is slow to import

        async with _registry(options, repository) as registry:
            return f"{repository}@{await push(registry, options.layout, tags=tags)}"

    return asyncio.run(work())


def _sign(options: argparse.Namespace) -> str:
    repository, tag, digest = _exact_parts(options.reference)
    password = os.environ.get(PASSWORD)
    key = private_key(_text(options.key).encode(), field="key", password=password.encode() if password else None)

    async def work() -> str:
        from flash_controller.packaging.publish import sign  # noqa: PLC0415 - see push

        async with _registry(options, repository) as registry:
            found = await resolve(registry, digest=digest, tag=tag)
            await sign(registry, repository=repository, digest=found.digest, key=key)
        return f"{repository}@{found.digest}"

    return asyncio.run(work())


def _inspect(options: argparse.Namespace) -> str:
    path = Path(options.what)
    if path.is_dir():
        found = describe_package(package_of(load(path)))
    elif path.is_file():
        found = describe_image(read_image(path.read_bytes()))
    else:
        found = asyncio.run(_inspect_reference(options))
    return orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() if options.json else as_text(found)


async def _inspect_reference(options: argparse.Namespace) -> dict[str, Any]:
    repository, tag, digest = _exact_parts(options.what)
    keys = {path.name: _text(path) for path in options.key}
    async with _registry(options, repository) as registry:
        found = await resolve(registry, digest=digest, tag=tag)
        package = await read_package(registry, found.digest)
        signed_by = verified_by(found.digest, await signatures(registry, found.digest), keys) if keys else None
    if keys and signed_by is None:
        raise Terminal(f"{found.digest} is not signed", reason=FirmwareReason.UNSIGNED)
    return describe_package(package, signed_by)


def _registry(options: argparse.Namespace, repository: str) -> Registry:
    authorities = _text(options.ca_file) if options.ca_file else None
    return Registry(
        repository,
        credentials=logged_in(repository, os.environ),
        authorities=authorities,
        plain_http=options.plain_http,
    )


def _parts(reference: str) -> tuple[str, str | None, str | None]:
    """Repository, tag and digest of `registry/path[:tag][@digest]`."""
    name, _, digest = reference.partition("@")
    registry, slash, path = name.rpartition("/")
    path, _, tag = path.partition(":")
    _checked(_REPOSITORY, repository := f"{registry}{slash}{path}", "repository")
    if digest:
        _checked(_DIGEST, digest, "digest")
    return repository, tag or None, digest or None


def _exact_parts(reference: str) -> tuple[str, str | None, str | None]:
    found = _parts(reference)
    if not any(found[1:]):
        raise InvalidField(field="reference", value=reference, expected="registry/path:tag or registry/path@digest")
    return found


def _checked(adapter: TypeAdapter[str], value: str, field: str) -> None:
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        raise invalid_field(error, field=field) from error


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidField(field="file", value=str(path), expected=f"a text that can be read ({error})") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kubectl fluidos flash", description="Packages of firmware for leaf devices.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    registry = argparse.ArgumentParser(add_help=False)
    registry.add_argument("--plain-http", action="store_true", help="ask the registry without TLS")
    registry.add_argument("--ca-file", type=Path, help="certificates in PEM that the registry's is issued by")

    package = commands.add_parser("package", help="build firmware for its boards and compose an index")
    package.add_argument("recipe", type=Path, help="firmware.yaml")
    package.add_argument("--output", "-o", type=Path, required=True, help="folder of the OCI image layout")
    package.add_argument("--version", help="instead of the recipe's")
    package.add_argument("--security-counter", type=int, help="instead of the recipe's")
    package.set_defaults(command=_package)

    pushing = commands.add_parser("push", parents=[registry], help="push a package to a registry")
    pushing.add_argument("layout", type=Path, help="what package wrote")
    pushing.add_argument("repository", help="registry/path[:tag]; the tag is the version by default")
    pushing.add_argument("--tag", action="append", default=[], help="another one; may be repeated")
    pushing.set_defaults(command=_push)

    signing = commands.add_parser("sign", parents=[registry], help="sign a package in a registry")
    signing.add_argument("reference", help="registry/path@digest, or registry/path:tag")
    signing.add_argument("--key", type=Path, required=True, help=f"P-256 in PEM; its password in {PASSWORD}")
    signing.set_defaults(command=_sign)

    looking = commands.add_parser("inspect", parents=[registry], help="show an image, a layout or a package")
    looking.add_argument("what", help="a file, a folder, registry/path@digest or registry/path:tag")
    looking.add_argument("--key", type=Path, action="append", default=[], help="public key that must have signed it")
    looking.add_argument("--json", action="store_true", help="for programs")
    looking.set_defaults(command=_inspect)
    return parser


if __name__ == "__main__":
    sys.exit(main())
