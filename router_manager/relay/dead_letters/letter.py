"""A dead letter as one line of NDJSON. No I/O."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any

import orjson

from crds.errors import InvalidField
from router_manager.domain.encoding import rfc3339
from router_manager.domain.payload import NOT_JSON, Record
from router_manager.domain.table import RouteName

_PAYLOAD = b',"payload":'
"""Stands nowhere else in a line: inside of a JSON text its quotes have a backslash before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A reading, for whom it was, and why that one did not take it."""

    record: Record
    route: RouteName
    target: str
    reason: str

    def line(self) -> bytes:
        """The payload stands last, byte for byte but for line breaks, which mean nothing there (RFC 8259)."""
        record = self.record
        head = {
            "id": record.id,
            "route": str(self.route),
            "target": self.target,
            "topic": record.topic,
            "ingestedAt": rfc3339(record.ingested_ns),
            "ingestedNs": record.ingested_ns,
            "reason": self.reason,
        }
        if record.value is NOT_JSON:
            head["payloadBase64"] = b64encode(record.payload).decode()
            return orjson.dumps(head, option=orjson.OPT_APPEND_NEWLINE)
        payload = record.payload.replace(b"\n", b" ").replace(b"\r", b" ")
        return orjson.dumps(head).removesuffix(b"}") + _PAYLOAD + payload + b"}\n"

    @classmethod
    def parse(cls, line: bytes) -> Letter:
        """Read a line.

        Raises:
            InvalidField: it is damaged.
        """
        try:
            head: dict[str, Any] = orjson.loads(line)
            if "payloadBase64" in head:
                payload = b64decode(head["payloadBase64"], validate=True)
            else:
                payload = line.rstrip().removesuffix(b"}").split(_PAYLOAD, 1)[1]
            namespace, _, name = head["route"].partition("/")
            return cls(
                record=Record(int(head["id"]), int(head["ingestedNs"]), str(head["topic"]), payload),
                route=RouteName(namespace, name),
                target=str(head["target"]),
                reason=str(head["reason"]),
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InvalidField(field="dead letter", value=line, expected="a line that a relay wrote") from error
