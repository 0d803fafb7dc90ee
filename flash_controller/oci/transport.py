"""Requests to one registry: authenticated as it asks, within time limits, refusals as errors that say what helps."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Final, Self

import aiohttp
import orjson
from yarl import URL

from crds.errors import EdgeError, InvalidField, Retryable, Terminal
from flash_controller.oci.credentials import Credentials, Login
from flash_controller.reasons import PackageReason

CONNECT_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 20.0
"""How long a registry may say nothing while it answers."""
CHUNK: Final = 64 * 1024
MAX_TOKEN: Final = 64 * 1024
_TRY_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_PARAMETER: Final = re.compile(r'([a-z]+)="([^"]*)"')
_TOKEN: Final = re.compile("[!-~]+")
_DOCKER_HUB: Final = "registry-1.docker.io"


class Transport:
    """One repository's registry.

    Args:
        repository: `registry[:port]/path`.
        credentials: of all registries; the fitting login is used, where the registry asks for one.
        authorities: certificates in PEM that the registry's may be issued by, instead of the system's.
        plain_http: without TLS, and passwords in clear.
        silence_seconds: how long it may say nothing.

    Raises:
        InvalidField: the authorities are no certificates.
    """

    def __init__(
        self,
        repository: str,
        *,
        credentials: Credentials | None = None,
        authorities: str | None = None,
        plain_http: bool = False,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        registry, _, path = repository.partition("/")
        host = _DOCKER_HUB if registry == "docker.io" else registry
        self._registry = registry
        self.path = path
        self._scheme = "http" if plain_http else "https"
        self._base = URL(f"{self._scheme}://{host}/v2/{path}/")
        self._login = (credentials or Credentials()).login(repository)
        self._tls = _tls(authorities)
        self._silence = silence_seconds
        self._authorization: str | None = None

    async def __aenter__(self) -> Self:
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=self._silence)
        self._session = aiohttp.ClientSession(
            timeout=limits,
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=8),
            auto_decompress=False,
            middlewares=(self._over_tls,),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        target: str | URL,
        *,
        expected: Collection[int] = (200,),
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer with one of the expected codes.

        Args:
            method: of HTTP.
            target: below `/v2/<path>/`, or a URL that the registry gave.
            expected: codes that are no error.
            headers: beside authorization.
            data: the body.

        Raises:
            Retryable: the registry is not there, silent, busy or broken, now or while its answer is read.
            Terminal: it refuses, or is not the one that its certificate is expected for.
        """
        url = self._base.join(URL(target))
        try:
            for last in (False, True):
                async with self._session.request(method, url, headers=self._headers(url, headers), data=data) as answer:
                    if answer.status == 401 and not last and await self._authorize(answer.headers):
                        continue
                    if answer.status not in expected:
                        raise self._refusal(answer, f"{method} {url.path}")
                    yield answer
                    return
        except aiohttp.ClientConnectorCertificateError as error:
            raise self._refused(
                f"its certificate is not accepted: {error}", PackageReason.REGISTRY_UNTRUSTED
            ) from error
        except aiohttp.ClientConnectorSSLError as error:
            message = f"no TLS; if it has none, that must be allowed (--plain-http, plainHTTP): {error}"
            raise self._refused(message, PackageReason.REGISTRY_UNTRUSTED) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Retryable(f"registry {self._registry}: {type(error).__name__} {error}".rstrip()) from error

    def following(self, answer: aiohttp.ClientResponse) -> URL | None:
        """Where the next page of an answer is (RFC 8288).

        Raises:
            Terminal: that is no URL.
        """
        try:
            link = answer.links.get("next")
        except ValueError as error:
            raise self._refused(f"its next page is nowhere ({error})") from error
        return None if link is None else URL(link["url"])

    async def _over_tls(
        self, request: aiohttp.ClientRequest, go_on: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Wherever a registry sends us, for a token or a blob: nothing leaves this machine in clear."""
        if self._scheme == "https" != request.url.scheme:
            raise self._refused(f"it sends us to {request.url.origin()}, expected https")
        return await go_on(request)

    def _url(self, text: str) -> URL:
        """A URL that the registry gave.

        Raises:
            Terminal: it is none.
        """
        try:
            url = self._base.join(URL(text))
            url.origin()
        except ValueError as error:
            raise self._refused(f"it sends us to {text!r}, expected a URL ({error})") from error
        return url

    def _headers(self, url: URL, headers: Mapping[str, str] | None) -> dict[str, str]:
        sent = {**(headers or {}), "Accept-Encoding": "identity"}
        if self._authorization is not None and url.origin() == self._base.origin():
            sent["Authorization"] = self._authorization
        return sent

    async def _authorize(self, headers: Mapping[str, str]) -> bool:
        """Gets what the registry asks for (distribution's token authentication); False where nothing can be given."""
        challenge = headers.get("WWW-Authenticate", "")
        scheme, _, rest = challenge.partition(" ")
        login = self._login
        if scheme.lower() == "basic":
            self._authorization = _basic(login) if login else None
            return login is not None
        asked = dict(_PARAMETER.findall(rest))
        if scheme.lower() != "bearer" or "realm" not in asked:
            return False
        realm = self._url(asked["realm"])
        wanted = {"service": asked.get("service", ""), "scope": asked.get("scope", f"repository:{self.path}:pull")}
        if login and login.identity_token:
            trade = {"grant_type": "refresh_token", "client_id": "fluidos-edge", "refresh_token": login.identity_token}
            call = self._session.post(realm, data={**wanted, **trade})
        else:
            call = self._session.get(realm, params=wanted, headers={"Authorization": _basic(login)} if login else {})
        async with call as answer:
            if answer.status != 200:
                raise self._refusal(answer, "its token service")
            self._authorization = f"Bearer {self._token(await read(answer, MAX_TOKEN))}"
        return True

    def _token(self, answer: bytes) -> str:
        try:
            said = orjson.loads(answer)
            token = str(said.get("token") or said["access_token"])
        except (orjson.JSONDecodeError, AttributeError, KeyError) as error:
            raise self._refused("its token service gives no token") from error
        if not _TOKEN.fullmatch(token):
            raise self._refused("its token service gives no token")
        return token

    def _refusal(self, answer: aiohttp.ClientResponse, what: str) -> EdgeError:
        said = f"registry {self._registry} answers {answer.status} {answer.reason} to {what}"
        if answer.status in _TRY_AGAIN:
            after = answer.headers.get("Retry-After", "")
            return Retryable(said, after=float(after) if re.fullmatch(r"[0-9]{1,4}", after) else None)
        match answer.status:
            case 401 | 403:
                who = "nobody" if self._login is None else f"{self._login.username or 'an identity token'}"
                return Terminal(f"{said} (asked as {who})", reason=PackageReason.REGISTRY_UNAUTHORIZED)
            case 404:
                return Terminal(said, reason=PackageReason.NOT_FOUND)
            case _:
                return Terminal(said, reason=PackageReason.REGISTRY_REFUSED)

    def _refused(self, said: str, reason: PackageReason = PackageReason.REGISTRY_REFUSED) -> Terminal:
        return Terminal(f"registry {self._registry}: {said}", reason=reason)


async def read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """A whole body.

    Raises:
        Terminal: it is longer than the limit.
    """
    body = bytearray()
    async for chunk in answer.content.iter_chunked(CHUNK):
        body += chunk
        if len(body) > limit:
            text = f"{answer.url.path} has more than {limit} bytes"
            raise Terminal(text, reason=PackageReason.REGISTRY_REFUSED)
    return bytes(body)


def _basic(login: Login) -> str:
    return "Basic " + base64.b64encode(f"{login.username}:{login.password}".encode()).decode()


def _tls(authorities: str | None) -> ssl.SSLContext:
    if authorities is not None and not authorities.strip():  # to Python, nothing means the system's
        raise InvalidField(field="authorities", value=authorities, expected="certificates in PEM")
    try:
        return ssl.create_default_context(cadata=authorities)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidField(field="authorities", value=authorities, expected=f"certificates in PEM ({error})") from error
