"""The issuer as the helper sees it: two requests over TLS, the issuer known by its SPIFFE ID."""

from __future__ import annotations

import ssl
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from crds.errors import InvalidField, Retryable, Terminal
from spire.domain.authorization import exactly
from spire.domain.errors import Untrusted
from spire.domain.spiffe_id import TrustDomain
from spire.domain.svid import MAX_CERTIFICATE, MAX_CHAIN, verify_svid
from spire.identity import Identity, Svid
from spire.tls import anonymous_client_context

Bundles: TypeAlias = Mapping[TrustDomain, tuple[bytes, ...]]

_MAX_BODY = 1024 * 1024
_MAX_TOKEN = 16 * 1024
_POLL_SECONDS = 45  # the issuer answers after 30 at most


def _decoded(value: object) -> object:
    return b64decode(value, validate=True) if isinstance(value, str) else value


_Der = Annotated[bytes, BeforeValidator(_decoded), Field(max_length=MAX_CERTIFICATE)]


class _Body(BaseModel):
    model_config = ConfigDict(alias_generator=lambda name: "spiffeID" if name == "spiffe_id" else to_camel(name))


class _BundlesBody(_Body):
    bundles: dict[str, Annotated[tuple[_Der, ...], Field(max_length=64)]] = Field(max_length=1000)
    bundles_version: str | int

    def parsed(self) -> Bundles:
        return {TrustDomain(name): roots for name, roots in self.bundles.items()}


class _SvidBody(_BundlesBody):
    spiffe_id: str
    chain: tuple[_Der, ...] = Field(min_length=1, max_length=MAX_CHAIN)


@dataclass(frozen=True, slots=True)
class Roots:
    """The file by which the issuer is known.

    Attributes:
        file: PEM certificates.
        domain: whose they are; None takes it from their URI SANs.
    """

    file: Path
    domain: TrustDomain | None

    def read(self) -> tuple[TrustDomain, tuple[bytes, ...]]:
        """The trust domain and its roots in DER.

        Raises:
            Retryable: the file is not there or not usable (yet).
        """
        try:
            roots = x509.load_pem_x509_certificates(self.file.read_bytes())
            domain = self.domain or _domain_of(roots)
        except (OSError, ValueError, InvalidField) as error:
            raise Retryable(f"--bundle-file {self.file}: {error}") from error
        return domain, tuple(root.public_bytes(Encoding.DER) for root in roots)


class Issuer:
    """A client of one issuer."""

    def __init__(self, url: str, *, roots: Roots, session: aiohttp.ClientSession, timeout: float) -> None:
        self._url = url.rstrip("/")
        self._roots = roots
        self._session = session
        self._timeout = timeout
        self._context: ssl.SSLContext | None = None

    async def trade(self, token_file: Path) -> Identity:
        """A new key, an SVID for it and the bundles.

        Raises:
            Retryable: no issuer, or none that can be believed now.
            Terminal: the issuer refuses.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        answer = await self._ask(
            "POST",
            "/v1/workloads",
            kind=_SvidBody,
            seconds=self._timeout,
            data=_csr(key),
            headers={"Authorization": f"Bearer {_token(token_file)}", "Content-Type": "application/pkcs10"},
        )
        try:
            return _identity(answer, key=key)
        except (InvalidField, Untrusted) as error:
            raise Retryable(f"the issuer's answer is of no use: {error}") from error

    async def bundles(self, *, after: str | None) -> tuple[Bundles, str]:
        """All bundles and their version, as soon as it is another one than `after`, at the latest after 30 s.

        Raises:
            Retryable: no issuer, or none that can be believed now.
            Terminal: the issuer refuses.
        """
        query = {} if after is None else {"after": after}
        answer = await self._ask("GET", "/v1/bundles", kind=_BundlesBody, seconds=_POLL_SECONDS, params=query)
        try:
            return answer.parsed(), str(answer.bundles_version)
        except InvalidField as error:
            raise Retryable(f"the issuer's bundles are of no use: {error}") from error

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        kind: type[B],
        seconds: float,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> B:
        request = self._session.request(
            method,
            self._url + path,
            data=data,
            headers=headers,
            params=params,
            ssl=self._tls(),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=seconds),
        )
        try:
            async with request as response:
                body = await _read(response)
        except aiohttp.ClientConnectorCertificateError as error:
            self._context = None  # the file may have newer roots at the next try
            raise Retryable(f"{self._url} is not the issuer: {error.certificate_error}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Retryable(f"{self._url} does not answer: {error or type(error).__name__}") from error
        _check_status(response, body)
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise Retryable(f"{self._url}{path}: the answer's {where or 'body'}: {first['msg']}") from error

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            domain, roots = self._roots.read()
            issuer = domain.spiffe_id("issuer")
            self._context = anonymous_client_context({domain: roots}, authorize=exactly(issuer))
        return self._context


B = TypeVar("B", bound=_BundlesBody)


def _domain_of(roots: list[x509.Certificate]) -> TrustDomain:
    """Whose roots these are (X509-SVID, 4.2: a signing certificate names its trust domain).

    Raises:
        InvalidField: they do not say, or not all the same.
    """
    said = set()
    for root in roots:
        try:
            extension = root.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            said.add("none")
        else:
            said.update(extension.value.get_values_for_type(x509.UniformResourceIdentifier))
    match sorted(said):
        case [name] if name.startswith("spiffe://"):
            return TrustDomain(name.removeprefix("spiffe://"))
        case names:
            expected = "one spiffe://<trust domain> in all roots, or the flag --trust-domain"
            raise InvalidField(field="subjectAltName", value=names, expected=expected)


def _token(file: Path) -> str:
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Retryable(f"token-file {file}: {error}") from error
    if not token.isascii() or not 0 < len(token) <= _MAX_TOKEN or not token.isprintable():
        raise Retryable(f"token-file {file}: expected one token of at most {_MAX_TOKEN} characters")
    return token


def _csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _identity(answer: _SvidBody, *, key: ec.EllipticCurvePrivateKey) -> Identity:
    """What the issuer answered, seen to be what it says.

    Raises:
        InvalidField: another ID or another key than those of the request and the answer.
        Untrusted: the chain does not fit the bundles that came along.
    """
    bundles = answer.parsed()
    secret = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    svid = Svid.parse(answer.chain, key=secret)
    verified = verify_svid(svid.chain, bundles=bundles, now=datetime.now(UTC))
    if str(verified) != answer.spiffe_id:
        raise InvalidField(field="spiffeID", value=answer.spiffe_id, expected=f"{verified}, as the chain says")
    if x509.load_der_x509_certificate(svid.chain[0]).public_key() != key.public_key():
        raise InvalidField(field="chain[0]", value="another key", expected="the key of the request")
    return Identity(svid=svid, bundles=bundles)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MAX_BODY:
            raise Retryable(f"{response.url}: an answer of more than {_MAX_BODY} bytes")
    return body


def _check_status(response: aiohttp.ClientResponse, body: bytes) -> None:
    if response.status == 200:
        return
    said = f"the issuer answers {response.status}: {body[:200].decode(errors='replace').strip()}"
    if response.status in {400, 401, 403}:
        raise Terminal(said, reason="Refused")
    after = response.headers.get("Retry-After", "")
    raise Retryable(said, after=min(float(after), 60) if after.isdecimal() else None)
