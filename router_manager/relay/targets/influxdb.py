"""InfluxDB 1.x and 2.x by their own write API.

Both write the good points of a body that also has bad ones, or none of it, and answer 400 or 422. A point that is
written again is the same point (measurement, tags and time), so the bad ones are found by writing halves again.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from urllib.parse import urlencode

from crds.models.addresses import InfluxDB
from router_manager.domain.batching import Answer, Failure, Receipts, Response
from router_manager.domain.encoding import CONTENT_TYPES
from router_manager.relay.targets.base import Batch
from router_manager.relay.targets.bodies import CONTENT_ENCODINGS, Bodies
from router_manager.relay.targets.credentials import Credential, CredentialError, Credentials
from router_manager.relay.targets.http import Poster

_BAD_POINTS = frozenset({400, 422})
_MAX_REQUESTS = 64
_DROPPED = re.compile(r"\bdropped=(\d+)")


class InfluxExit:
    """See Exit."""

    def __init__(self, poster: Poster, bodies: Bodies, credentials: Credentials) -> None:
        """Send by this poster, which who made it closes."""
        self._poster = poster
        self._bodies = bodies
        self._credentials = credentials

    async def send(self, batch: Batch) -> Answer:
        """See Exit."""
        address = batch.way.address
        assert isinstance(address, InfluxDB)  # noqa: S101 - Exits hands over by type
        try:
            credential = self._credentials.of(batch.way)
        except CredentialError as error:
            return Failure(str(error))
        url, headers = write_url(address), _headers(address, credential)
        every = range(len(batch.parts))
        answer = await self._write(batch, every, url, headers)
        if not _has_bad_points(answer):
            return answer
        return await self._hunt(batch, every, answer, url=url, headers=headers)

    async def close(self) -> None:
        """See Exit."""
        await self._poster.close()

    async def _hunt(
        self, batch: Batch, every: range, answer: Response | Failure, *, url: str, headers: Mapping[str, str]
    ) -> Answer:
        """Write the good points, and tell the bad ones. With very many bad ones, good ones are taken for bad, too.

        Those are written all the same, or can be written again out of the dead letters.
        """
        suspects, refused, requests = deque([(every, answer)]), [], 0
        while suspects:
            span, answer = suspects.popleft()
            reason = _reason(answer)
            if len(span) == 1 or requests >= _MAX_REQUESTS or _all_dropped(reason, span):
                refused += [(index, reason) for index in span]
                continue
            middle = len(span) // 2
            for half in (span[:middle], span[middle:]):
                answer = await self._write(batch, half, url, headers)
                requests += 1
                if _has_bad_points(answer):
                    suspects.append((half, answer))
                elif isinstance(answer, Failure) or answer.status >= 300:
                    return answer
        return Receipts(tuple(sorted(refused)))

    async def _write(self, batch: Batch, span: range, url: str, headers: Mapping[str, str]) -> Response | Failure:
        compression = batch.way.target.compression
        if compression != "None":
            headers = {**headers, "Content-Encoding": CONTENT_ENCODINGS[compression]}
        parts = batch.parts[span.start : span.stop]
        body = await self._bodies.make(parts, encoding="InfluxLine", compression=compression)
        return await self._poster.post(url, body, headers, peer=batch.way.peer)


def write_url(address: InfluxDB) -> str:
    """Where points in nanoseconds are posted to (InfluxDB API reference, v1 and v2)."""
    base = address.url.rstrip("/")
    if address.version == "V2":
        return f"{base}/api/v2/write?" + urlencode(
            {"org": address.organization, "bucket": address.bucket, "precision": "ns"}
        )
    policy = {} if address.retention_policy is None else {"rp": address.retention_policy}
    return f"{base}/write?" + urlencode({"db": address.database, **policy, "precision": "ns"})


def _headers(address: InfluxDB, credential: Credential | None) -> dict[str, str]:
    headers = {"Content-Type": CONTENT_TYPES["InfluxLine"]}
    if credential is None:
        return headers
    if credential.token is not None:
        headers["Authorization"] = f"Token {credential.token}"
    elif address.version == "V2":
        # How the v2 API of a 1.8 takes its users.
        headers["Authorization"] = f"Token {credential.username}:{credential.password}"
    else:
        headers["Authorization"] = credential.authorization
    return headers


def _has_bad_points(answer: Response | Failure) -> bool:
    return isinstance(answer, Response) and answer.status in _BAD_POINTS


def _reason(answer: Response | Failure) -> str:
    return answer.reason if isinstance(answer, Failure) else f"HTTP {answer.status}: {answer.body}"


def _all_dropped(reason: str, span: range) -> bool:
    """A line is a point, and the answer counts those that were not written."""
    dropped = _DROPPED.search(reason)
    return dropped is not None and int(dropped[1]) == len(span)
