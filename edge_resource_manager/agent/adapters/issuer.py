"""The identity issuer's calls for devices: bytes there, bytes back, neither of them looked into."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final, Protocol, Self

import aiohttp

from crds.errors import Retryable

ANSWER_SECONDS: Final = 10.0
MAX_ANSWER: Final = 65536
CONNECTIONS: Final = 16
CBOR: Final = "application/cbor"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the issuer says.

    Attributes:
        status: of HTTP.
        body: CBOR, for the device.
    """

    status: int
    body: bytes


class Issuer(Protocol):
    """Who gives devices their identities."""

    async def challenge(self, ueid: str) -> Answer:
        """A nonce for a device.

        Raises:
            Retryable: no answer.
        """

    async def evidence(self, ueid: str, body: bytes) -> Answer:
        """What a device proves, and what it gets for it.

        Raises:
            Retryable: no answer.
        """


class HttpIssuer:
    """The issuer over HTTP; use as an async context manager.

    Args:
        url: `https://host:port`.
        context: of TLS.
    """

    def __init__(self, url: str, *, context: ssl.SSLContext) -> None:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, ssl=context)
        self._url = url.rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS), auto_decompress=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def challenge(self, ueid: str) -> Answer:
        """See Issuer."""
        return await self._post(f"{self._url}/v1/devices/{ueid}/challenge", b"")

    async def evidence(self, ueid: str, body: bytes) -> Answer:
        """See Issuer."""
        return await self._post(f"{self._url}/v1/devices/{ueid}/evidence", body)

    async def _post(self, url: str, body: bytes) -> Answer:
        try:
            async with self._session.post(
                url, data=body, headers={"Content-Type": CBOR}, allow_redirects=False
            ) as response:
                content = await response.content.read(MAX_ANSWER + 1)
                while len(content) <= MAX_ANSWER and not response.content.at_eof():
                    content += await response.content.read(MAX_ANSWER + 1 - len(content))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Retryable(f"issuer: {type(error).__name__} {error}") from error
        if response.content_type != CBOR or len(content) > MAX_ANSWER:
            raise Retryable(f"issuer: {response.status} with {len(content)} bytes of {response.content_type}")
        return Answer(response.status, content)
