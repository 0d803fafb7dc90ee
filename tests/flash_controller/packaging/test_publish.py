"""Pushing to registries that ask for logins, are busy or know no referrers, and layouts that cannot be pushed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from crds.errors import InvalidField, Retryable, Terminal
from flash_controller.domain.composition import Built, compose
from flash_controller.domain.recipe import BoardRecipe, Recipe
from flash_controller.oci.credentials import Credentials, Login
from flash_controller.oci.registry import Registry
from flash_controller.packaging.layout import save
from flash_controller.packaging.publish import push
from scripts.testbed import registry as testbed
from tests.flash_controller.oci.proxy import Proxy, proxied, status
from tests.flash_controller.oci.test_access import HTPASSWD


@pytest.fixture
async def proxy(registry: testbed.Registry) -> AsyncIterator[Proxy]:
    async with proxied(registry.host) as standing:
        yield standing


def layout(folder: Path, image: bytes = b"code") -> Path:
    recipe = Recipe(application="thermo", version="1.2.3", boards={"b": BoardRecipe(image="x.bin")})
    save(compose(recipe, {"b": Built("x.bin", image)}), folder)
    return folder


async def test_the_same_bytes_arrive(proxy: Proxy, path: str, tmp_path: Path) -> None:
    async with Registry(f"{proxy.host}/{path}", plain_http=True) as registry:
        digest = await push(registry, layout(tmp_path), tags=("a", "b"))
        assert [await registry.digest(tag) for tag in ("a", "b")] == [digest, digest]
        (bill,) = await registry.referrers(digest)
        for each in (digest, bill.digest):
            assert await registry.manifest(each) == (tmp_path / "blobs" / each.replace(":", "/")).read_bytes()


@pytest.mark.parametrize("where", ["HEAD /v2", "POST /v2", "PUT /v2"])
async def test_a_registry_that_is_busy_is_told_at_once(where: str, proxy: Proxy, path: str, tmp_path: Path) -> None:
    proxy.fail(where, status(429, Retry_After="600"))
    async with Registry(f"{proxy.host}/{path}", plain_http=True) as registry:
        with pytest.raises(Retryable, match=f"registry {proxy.host} answers 429") as refusal:
            await push(registry, layout(tmp_path), tags=("1.2.3",))
    assert refusal.value.after == 600
    assert proxy.seen[-1].endswith("429"), "nothing was tried after it"


async def test_a_registry_with_passwords_takes_the_right_one(tmp_path: Path) -> None:
    with testbed.Registry(tmp_path / "registry", htpasswd=HTPASSWD) as guarded:
        for password, allowed in (("s3cret", True), ("guessed", False)):
            login = Credentials({guarded.host: Login(username="edge", password=password)})
            async with Registry(f"{guarded.host}/a", credentials=login, plain_http=True) as registry:
                if allowed:
                    await push(registry, layout(tmp_path / "layout"), tags=("1.2.3",))
                    continue
                with pytest.raises(Terminal, match="401") as refusal:
                    await push(registry, layout(tmp_path / "layout"), tags=("1.2.3",))
                assert refusal.value.reason == "RegistryUnauthorized"


async def test_a_token_for_reading_is_changed_for_one_for_writing(proxy: Proxy, path: str, tmp_path: Path) -> None:
    scopes: list[str] = []

    async def token(_proxy: Proxy, request: web.Request) -> web.StreamResponse:
        scopes.append(request.query["scope"])
        return web.json_response({"token": scopes[-1]})

    for method, scope in (("HEAD /v2", "pull"), ("POST /v2", "pull,push")):
        challenge = f'Bearer realm="http://{proxy.host}/token",service="registry",scope="{scope}"'
        proxy.fail(method, status(401, WWW_Authenticate=challenge))
    proxy.fail("/token", token, token)
    async with Registry(f"{proxy.host}/{path}", plain_http=True) as registry:
        await push(registry, layout(tmp_path), tags=("1.2.3",))
    assert scopes == ["pull", "pull,push"]
    assert proxy.authorizations[-1] == "Bearer pull,push"


@pytest.mark.parametrize("image", [b"[1]", b'"code"', b"12"])
async def test_an_image_that_oras_cannot_tell_is_refused(image: bytes, proxy: Proxy, path: str, tmp_path: Path) -> None:
    async with Registry(f"{proxy.host}/{path}", plain_http=True) as registry:
        with pytest.raises(InvalidField, match="bare JSON"):
            await push(registry, layout(tmp_path, image), tags=("1.2.3",))


async def test_a_layout_whose_parts_have_no_names_is_refused(proxy: Proxy, path: str, tmp_path: Path) -> None:
    index = layout(tmp_path) / "index.json"
    index.write_bytes(index.read_bytes().replace(b"ref.name", b"ref.other"))
    async with Registry(f"{proxy.host}/{path}", plain_http=True) as registry:
        with pytest.raises(InvalidField, match="named by their digests"):
            await push(registry, tmp_path, tags=("1.2.3",))
