"""Registries that ask who asks, and registries that must prove who they are."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from crds.errors import InvalidField, Terminal
from flash_controller.oci.credentials import Credentials, Login
from flash_controller.oci.registry import Registry
from scripts.testbed import registry as testbed
from scripts.testbed.certificates import Authority
from tests.flash_controller.oci.proxy import Proxy, proxied, status
from tests.flash_controller.oci.shelf import Shelf, stock

HTPASSWD = "edge:$2b$04$6/HVB9fbK868vvOrb6qbzOOKcknC4n2lTM/8iHR0mutgF0gOzeJBC\n"


def configuration(**auths: dict[str, str]) -> str:
    """As `docker login` leaves it."""
    return orjson.dumps({"auths": auths}).decode()


def basic(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture(scope="module")
async def shelf(registry: testbed.Registry) -> Shelf:
    return await stock(registry.host, "firmware/guarded")


@pytest.fixture
async def proxy(registry: testbed.Registry) -> AsyncIterator[Proxy]:
    async with proxied(registry.host) as standing:
        yield standing


async def test_a_registry_with_passwords_is_asked_with_the_right_one(tmp_path: Path) -> None:
    with testbed.Registry(tmp_path, htpasswd=HTPASSWD) as guarded:
        repository = f"{guarded.host}/a"
        for password, allowed in (("s3cret", True), ("guessed", False), (None, False)):
            auths = {} if password is None else {guarded.host: basic("edge", password)}
            credentials = Credentials.parse(configuration(**auths))
            async with Registry(repository, credentials=credentials, plain_http=True) as asked:
                with pytest.raises(Terminal) as refusal:
                    await asked.manifest("1.0.0")
            assert refusal.value.reason == ("NotFound" if allowed else "RegistryUnauthorized")
            assert "guessed" not in str(refusal.value)


@pytest.mark.parametrize(
    ("login", "trade"),
    [
        (basic("edge", "s3cret"), "GET Basic ZWRnZTpzM2NyZXQ= {'service': 'registry', 'scope': 'asked'}"),
        ({}, "GET  {'service': 'registry', 'scope': 'asked'}"),
        ({"identitytoken": "refresh"}, "POST  ['refresh_token', 'refresh']"),
    ],
)
async def test_a_token_service_is_asked_once(login: dict[str, str], trade: str, proxy: Proxy, shelf: Shelf) -> None:
    said: list[str] = []

    async def token(_proxy: Proxy, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        what = [form[key] for key in ("grant_type", "refresh_token")] if form else dict(request.query)
        said.append(f"{request.method} {request.headers.get('Authorization', '')} {what}")
        return web.json_response({"token": "granted"})

    challenge = f'Bearer realm="http://{proxy.host}/token",service="registry",scope="asked"'
    proxy.fail("/manifests/", status(401, WWW_Authenticate=challenge))
    proxy.fail("/token", token)
    credentials = Credentials.parse(configuration(**{proxy.host: login}))
    async with Registry(f"{proxy.host}/{shelf.path}", credentials=credentials, plain_http=True) as repository:
        await repository.manifest(shelf.digest)
        await repository.manifest("1.2.3")
    assert said == [trade]
    assert proxy.authorizations[-2:] == ["Bearer granted"] * 2


async def test_a_token_that_is_not_enough_is_told(proxy: Proxy, shelf: Shelf) -> None:
    challenge = status(401, WWW_Authenticate=f'Bearer realm="http://{proxy.host}/token"')
    proxy.fail("/manifests/", challenge, challenge)

    async def token(_proxy: Proxy, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"access_token": "weak"})

    proxy.fail("/token", token)
    async with Registry(f"{proxy.host}/{shelf.path}", plain_http=True) as repository:
        with pytest.raises(Terminal, match=r"401 .*asked as nobody") as refusal:
            await repository.manifest(shelf.digest)
    assert refusal.value.reason == "RegistryUnauthorized"


async def test_a_registry_is_known_by_its_certificate(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    authority, stranger = (Authority.new(name, now=now) for name in ("site", "stranger"))
    certificate, key = authority.server("registry", hosts=["127.0.0.1"], now=now).write(tmp_path, "registry")
    with testbed.Registry(tmp_path / "registry", tls=testbed.RegistryTls(certificate, key)) as proven:
        for trusted, reason in ((authority, "NotFound"), (stranger, "RegistryUntrusted"), (None, "RegistryUntrusted")):
            pem = None if trusted is None else trusted.pem.decode()
            async with Registry(f"{proven.host}/a", authorities=pem) as asked:
                with pytest.raises(Terminal) as refusal:
                    await asked.manifest("1.0.0")
            assert refusal.value.reason == reason


@pytest.mark.parametrize("pem", ["", "\n", "none", "-----BEGIN CERTIFICATE-----\n"])
async def test_no_certificates_are_refused_by_name(pem: str) -> None:
    with pytest.raises(InvalidField, match="authorities"):
        Registry("registry.test/a", authorities=pem)


@pytest.mark.parametrize(
    ("repository", "user"),
    [
        ("registry.test/a/b", "of-a"),
        ("registry.test/ab", "of-registry"),
        ("registry.test:5000/a", None),
        ("docker.io/library/a", "of-hub"),
    ],
)
def test_the_login_nearest_to_a_repository_counts(repository: str, user: str | None) -> None:
    credentials = Credentials.parse(
        configuration(
            **{
                "registry.test": basic("of-registry", "x"),
                "https://registry.test/a": basic("of-a", "x"),
                "https://index.docker.io/v1/": {"username": "of-hub", "password": "x"},
            }
        )
    )
    login = credentials.login(repository)
    assert (login and login.username) == user


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"auths": []}',
        '{"auths": {"r": 1}}',
        '{"auths": {"r": {"auth": "%"}}}',
        '{"auths": {"r": {"auth": "\u00e4"}}}',
        '{"auths": {"r": {"auth": "/zo="}}}',
        '{"auths": {"r": {"auth": "YQ=="}}}',
    ],
)
def test_a_wrong_pull_secret_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(InvalidField, match=r"dockerconfigjson.*not shown") as refusal:
        Credentials.parse(text)
    assert refusal.value.reason == "InvalidCredentials"


def test_a_login_does_not_show_its_secrets() -> None:
    shown = repr(Login(username="edge", password="s3cret", identity_token="t0ken"))
    assert "edge" in shown
    assert "s3cret" not in shown
    assert "t0ken" not in shown
