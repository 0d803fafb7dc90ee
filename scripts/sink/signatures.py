"""Who made a reading: its device where that signed it, whoever brought it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import orjson

from scripts.sink.bodies import Reading
from spire.domain.errors import Malformed
from spire.domain.readings import MEMBER
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.readings import verify


def signed(
    reading: Reading, *, bundles: Mapping[TrustDomain, Sequence[bytes]], now: datetime
) -> tuple[Reading, SpiffeId | None]:
    """What its device signed, and who that is; a reading that nobody signed as it is, of nobody.

    Args:
        reading: as it came.
        bundles: roots in DER of every trust domain whose devices are believed.
        now: aware.

    Raises:
        Malformed, Untrusted: it has a signature that proves nothing, or for something else than a JSON object.
        ValueError: what was signed is no JSON.
    """
    if MEMBER not in reading:
        return reading, None
    verified = verify(orjson.dumps(reading), bundles=bundles, now=now)
    said = orjson.loads(verified.payload)
    if not isinstance(said, dict):
        raise Malformed(field=MEMBER, value=said, expected="a reading that is a JSON object")
    return said, verified.spiffe_id
