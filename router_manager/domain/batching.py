"""When a batch leaves, what its answer means, and how long to wait before the next try.

Batching adapts: a lane with nothing in flight sends what is there; what arrives meanwhile is the next batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import blake2b

from router_manager.domain.payload import Record

MAX_BACKOFF_SECONDS = 30.0
MAX_RETRY_AFTER_SECONDS = 3600.0
_PASSING = frozenset({408, 421, 425, 429})
_MAX_CONFLICTS = 8
_BUSY_RECORDS = 128
_LEAST_LINGER_SECONDS = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Bounds of one batch, before encoding."""

    records: int = 500
    size_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Response:
    """What a target answered: status code, Retry-After as sent, the beginning of the body."""

    status: int
    retry_after: str | None = None
    body: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """There was no whole answer: refused, cut off, timed out, or forbidden by the egress policy."""

    reason: str


@dataclass(frozen=True, slots=True)
class Receipts:
    """A target answered for each record, and has all of them but those that it refuses.

    Attributes:
        refused: index in the batch, and why the target will never take that record.
    """

    refused: tuple[tuple[int, str], ...] = ()


Answer = Response | Receipts | Failure


@dataclass(frozen=True, slots=True)
class Delivered:
    """The target has the batch, without the records that it refused: these go to the dead letters."""

    refused: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """Send the same batch again after a pause."""

    after_seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Split:
    """The batch is too large for the target: send its halves."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The target will never take this batch: to the dead letters."""

    reason: str


Outcome = Delivered | Retry | Split | Refused


def judge(answer: Answer, *, records: int, attempt: int, now: datetime, jitter: float) -> Outcome:
    """What an answer means for the batch (RFC 9110 section 15).

    Args:
        answer: of the target.
        records: in the batch.
        attempt: how often this batch failed before, from 0.
        now: for a Retry-After that is a date.
        jitter: in [0, 1).
    """
    pause = backoff_seconds(attempt, jitter=jitter)
    if isinstance(answer, Failure):
        return Retry(pause, answer.reason)
    if isinstance(answer, Receipts):
        return Delivered(answer.refused)
    status = answer.status
    reason = f"HTTP {status}" + (f": {answer.body}" if answer.body else "")
    if 200 <= status < 300:
        return Delivered()
    if status == 413:
        return Split() if records > 1 else Refused(reason)
    # 409: an earlier try with the same Idempotency-Key, which we did not wait for, may still be worked on.
    if status in _PASSING or status >= 500 or (status == 409 and 0 < attempt <= _MAX_CONFLICTS):
        asked = retry_after_seconds(answer.retry_after, now=now)
        return Retry(pause if asked is None else asked + jitter * min(pause, 1.0), reason)
    return Refused(f"{reason} (redirects are not followed)" if 300 <= status < 400 else reason)


def backoff_seconds(attempt: int, *, jitter: float, first: float = 0.1, most: float = MAX_BACKOFF_SECONDS) -> float:
    """Exponential, the upper half of it by chance, so that lanes of one dead target do not return as one."""
    whole = min(most, first * 2.0 ** min(attempt, 32))
    return whole * (0.5 + 0.5 * jitter)


def retry_after_seconds(header: str | None, *, now: datetime) -> float | None:
    """Both forms of RFC 9110 section 10.2.3, at most an hour; None where absent or unreadable."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER_SECONDS)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:  # "-0000" says UTC without a zone
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - now).total_seconds()), MAX_RETRY_AFTER_SECONDS)


def linger_seconds(last_batch: int, *, most: float) -> float:
    """How long records may gather for one write to disk, from how many the last one had: the more, the longer.

    So there is nothing to tune: few do not wait, and many share the cost.
    """
    linger = most * min(1.0, last_batch / _BUSY_RECORDS)
    # Timers of event loops count milliseconds: less than half of one is not worth one.
    return linger if linger >= _LEAST_LINGER_SECONDS else 0.0


def shrunk(records: int) -> int:
    """The limit of records after a 413."""
    return max(1, records // 2)


def grown(limit: int, *, most: int) -> int:
    """The limit after a success: back up slowly, since what the target minds is bytes and readings differ."""
    return min(most, limit + limit // 8 + 1)


def batch_id(*, spool: str, route_uid: str, target: str, records: Sequence[Record]) -> str:
    """The `Idempotency-Key`: the same records to the same target have the same id, also after a restart."""
    digest = blake2b(f"{spool}/{route_uid}/{target}".encode(), digest_size=16)
    digest.update(b"".join([record.id.to_bytes(8, "big") for record in records]))
    # A spool that lost its tail with the machine's power uses ids again, for other records.
    digest.update(records[0].ingested_ns.to_bytes(8, "big", signed=True))
    return digest.hexdigest()
