"""For receivers: believe a reading because its device signed it, and nobody in between.

    from spire.readings import Replays, verify

    reading = verify(message, bundles=source.current.bundles, now=datetime.now(UTC))
    if replays.is_new(reading): ...

`bundles` may be a SPIFFE Workload API's, or come from files. How messages look, and what a receiver still has to decide
for itself, is in docs/trust.md.
"""

from spire.domain.readings import VerifiedReading, sign, verify
from spire.domain.replays import Replays

__all__ = ["Replays", "VerifiedReading", "sign", "verify"]
