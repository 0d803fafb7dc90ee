"""Devices at the issuer's door: a challenge, then evidence and a request, then an SVID, all of it in CBOR.

Anybody may knock: a device has no identity before. What a stranger can reach is bounded, and nothing that a stranger
sends changes how a device stands.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Final, TypeAlias, assert_never

import structlog
from aiohttp import web

from crds.errors import EdgeError
from spire.domain import cbor, eat
from spire.domain.authority import MAX_COMMON_NAME, MAX_CSR
from spire.domain.enrolment import Outcome, enrol
from spire.domain.errors import Malformed, Reason
from spire.domain.nonces import NONCE_SIZE, Nonces
from spire.domain.rates import Rates
from spire.domain.site import Site
from spire.domain.spiffe_id import device_spiffe_id
from spire.domain.standing import Granted, Withdrawn
from spire.domain.ueid import Ueid
from spire.domain.verdict import Attested, Legacy, Proven, Refused
from spire.issuer.appraisal_metrics import APPRAISAL_SECONDS, APPRAISALS, CHALLENGES, OPEN_CHALLENGES, PUT_OFF
from spire.issuer.appraisal_policy import Policies
from spire.issuer.authority import Authority
from spire.issuer.devices import Devices
from spire.tls import peer_of

log = structlog.get_logger(__name__)

CONTENT_TYPE: Final = "application/cbor"
MAX_BODY: Final = eat.MAX_TOKEN + MAX_CSR + 16
MAX_IN_HAND: Final = 128
BODY_SECONDS: Final = 10.0
ISSUE_SECONDS: Final = 10.0
BURST: Final = 20.0
PER_SECOND: Final = 5.0
"""Calls of one peer for one device; a renewal takes two."""

Handler: TypeAlias = Callable[[web.Request, Ueid], Awaitable[web.Response]]


class _Answer(Exception):  # noqa: N818 - an answer, not an error
    """A call ends here.

    Attributes:
        status: of HTTP.
        body: of the answer.
    """

    def __init__(self, status: HTTPStatus, *, reason: str, message: str, withdrawn: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, object] = {"reason": str(reason), "message": message}
        if withdrawn:
            self.body["withdrawn"] = True


class Attestation:
    """The calls of devices.

    Args:
        authority: makes the SVIDs.
        policies: what is accepted.
        devices: who is expected, and where it is written what came of it.
        ttl: how long an SVID, and what it was given for, counts.
        clock: the time.
    """

    def __init__(
        self,
        *,
        authority: Authority,
        policies: Policies,
        devices: Devices,
        ttl: timedelta = timedelta(hours=1),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._authority = authority
        self._policies = policies
        self._devices = devices
        self._ttl = ttl
        self._clock = clock
        self._nonces = Nonces()
        self._rates: Rates[tuple[str, Ueid]] = Rates(burst=BURST, per_second=PER_SECOND)
        self._in_hand = 0
        OPEN_CHALLENGES.set_function(self._nonces.__len__)

    def routes(self) -> list[web.RouteDef]:
        """For the issuer's application."""
        return [
            web.post("/v1/devices/{ueid}/challenge", self._handler(self._challenge)),
            web.post("/v1/devices/{ueid}/evidence", self._handler(self._evidence)),
        ]

    def _handler(self, call: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            try:
                async with self._place():
                    ueid = _ueid(request.match_info["ueid"])
                    self._admit(_who(request), ueid)
                    return await call(request, ueid)
            except Malformed as error:
                return _response({"reason": str(error.reason), "message": str(error)}, HTTPStatus.BAD_REQUEST)
            except _Answer as answer:
                return _response(answer.body, answer.status)

        return handle

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """One of the calls that are in hand at a time."""
        if self._in_hand >= MAX_IN_HAND:
            raise _put_off("crowd", "too many devices ask at a time")
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1

    def _admit(self, who: str, ueid: Ueid) -> None:
        if not self._devices.synced.is_set():
            raise _put_off("start", "the devices of this cluster are not known yet")
        if not self._devices.expects(ueid):
            APPRAISALS.labels(Reason.NOT_EXPECTED).inc()
            raise _Answer(
                HTTPStatus.FORBIDDEN, reason=Reason.NOT_EXPECTED, message=f"no LeafDevice of this cluster is {ueid}"
            )
        if not self._rates.allow((who, ueid), now=self._clock()):
            raise _put_off("rate", "asked too often")

    def _site(self) -> Site:
        site = self._policies.current
        if site is None:
            raise _put_off("policy", "the policy of this cluster cannot be read")
        return site

    async def _challenge(self, request: web.Request, ueid: Ueid) -> web.Response:
        nonce = secrets.token_bytes(NONCE_SIZE)
        self._nonces.give(nonce, peer=_peer(request, ueid), now=self._clock())
        CHALLENGES.inc()
        return _response({"nonce": nonce, "trustDomain": str(self._authority.trust_domain)})

    async def _evidence(self, request: web.Request, ueid: Ueid) -> web.Response:
        evidence, csr = _parts(await _body(request))
        site = self._site()
        last = self._devices.last(ueid)
        with APPRAISAL_SECONDS.time():
            # In the loop: it takes two milliseconds, and a thread would share the interpreter with us all the same.
            outcome = enrol(
                evidence,
                csr=csr,
                ueid=ueid,
                peer=_peer(request, ueid),
                nonces=self._nonces,
                site=site,
                last=last if isinstance(last, Proven) else None,
                now=self._clock(),
            )
        return await self._answer(outcome, csr=csr, ueid=ueid, site=site)

    async def _answer(self, outcome: Outcome, *, csr: bytes, ueid: Ueid, site: Site) -> web.Response:
        match outcome.verdict:
            case Refused() as refused:
                APPRAISALS.labels(refused.reason).inc()
                log.info("evidence refused", ueid=str(ueid), reason=refused.reason, why=refused.message)
                if outcome.genuine:
                    self._devices.find(ueid, Withdrawn(refused=refused))
                malformed = refused.reason is Reason.MALFORMED
                raise _Answer(
                    HTTPStatus.BAD_REQUEST if malformed else HTTPStatus.FORBIDDEN,
                    reason=refused.reason,
                    message=refused.message,
                    withdrawn=outcome.genuine,
                )
            case Attested() as device:
                return await self._issue(device, csr=csr, site=site)
            case Legacy() as device:
                return self._note_legacy(device, ueid)
            case _:
                assert_never(outcome.verdict)

    async def _issue(self, device: Attested, *, csr: bytes, site: Site) -> web.Response:
        spiffe_id = device_spiffe_id(self._authority.trust_domain, ueid=device.ueid, application=device.application)
        attested, findings = self._clock(), self._devices.findings(device.ueid)
        try:
            async with asyncio.timeout(ISSUE_SECONDS):
                issued = await self._authority.issue(spiffe_id, csr=csr, common_name=str(device.ueid), ttl=self._ttl)
        except Malformed:
            raise  # a SPIRE server wants more of a request than we do, and the device alone can say it
        except (EdgeError, TimeoutError) as error:
            log.error("no SVID issued", spiffe_id=str(spiffe_id), error=str(error))
            raise _put_off("authority", "the authority does not sign right now") from error
        # While the authority signed, the device may have proven something else, or the site have changed its mind.
        if self._policies.current is not site or self._devices.findings(device.ueid) != findings:
            raise _put_off("overtaken", "something changed meanwhile, attest again")
        granted = Granted(device=device, spiffe_id=spiffe_id, attested=attested, expires=issued.expires)
        self._devices.find(device.ueid, granted)
        APPRAISALS.labels("Attested").inc()
        return _response(
            {
                "spiffeID": str(spiffe_id),
                "chain": list(issued.chain),
                "bundles": {str(domain): list(roots) for domain, roots in self._authority.bundles.items()},
                "expires": int(issued.expires.timestamp()),
            }
        )

    def _note_legacy(self, device: Legacy, ueid: Ueid) -> web.Response:
        """Nobody is named by such a certificate, so it gets none of ours; and it undoes nothing that was proven."""
        if self._devices.attested(ueid):
            raise _Answer(
                HTTPStatus.FORBIDDEN, reason=Reason.LEGACY_REFUSED, message="this device has proven more than that"
            )
        now = self._clock()
        self._devices.find(ueid, Granted(device=device, spiffe_id=None, attested=now, expires=now + self._ttl))
        APPRAISALS.labels("Legacy").inc()
        return _response({"tier": "Legacy", "expires": int((now + self._ttl).timestamp())})


def _who(request: web.Request) -> str:
    """Who asks: by its SVID, else by its address."""
    peer = peer_of(request.transport)
    return str(peer) if peer is not None else request.remote or "unknown"


def _peer(request: web.Request, ueid: Ueid) -> str:
    """The way that an answer has to come: for the same device, by who asked for the challenge."""
    return f"{_who(request)} {ueid}"


def _ueid(text: str) -> Ueid:
    """The device of a URL.

    Raises:
        Malformed: no UEID in lower-case hex, or one that is too long for a certificate's common name.
    """
    try:
        if len(text) <= MAX_COMMON_NAME and (ueid := Ueid(bytes.fromhex(text))) and str(ueid) == text:
            return ueid
    except ValueError:
        pass
    raise Malformed(field="ueid", value=text, expected=f"a UEID in at most {MAX_COMMON_NAME} digits of lower-case hex")


async def _body(request: web.Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_chunked(MAX_BODY):
                body += chunk
                if len(body) > MAX_BODY:
                    raise Malformed(field="body", value=f"{len(body)} bytes", expected=f"at most {MAX_BODY} bytes")
    except TimeoutError:
        message = f"the body took longer than {BODY_SECONDS:g} s"
        raise _Answer(HTTPStatus.REQUEST_TIMEOUT, reason=Reason.MALFORMED, message=message) from None
    return bytes(body)


def _parts(body: bytes) -> tuple[bytes, bytes]:
    match cbor.decode(body, field="body", limit=MAX_BODY):
        case [bytes() as evidence, bytes() as csr]:
            return evidence, csr
        case other:
            raise Malformed(field="body", value=other, expected="an array of evidence and request, each a byte string")


def _put_off(why: str, message: str) -> _Answer:
    PUT_OFF.labels(why).inc()
    return _Answer(HTTPStatus.SERVICE_UNAVAILABLE, reason="Busy", message=message)


def _response(body: Mapping[str, object], status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    headers = {"Retry-After": "1"} if status is HTTPStatus.SERVICE_UNAVAILABLE else None
    return web.Response(body=cbor.encode(body), status=status, content_type=CONTENT_TYPE, headers=headers)
