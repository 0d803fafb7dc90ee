"""Errors as RFC 9457 problems: every answer of 400 and above, whoever raised it."""

from __future__ import annotations

from http import HTTPStatus

import structlog
from aiohttp import web

from crds.errors import InvalidField, Retryable
from crds.kube.client import Refused
from edge_resource_manager.domain import wire

log = structlog.get_logger(__name__)

CONTENT_TYPE = "application/problem+json"


class Rejected(Exception):  # noqa: N818 - an answer, not a fault
    """An answer other than success.

    Attributes:
        status: of the answer.
        after: seconds after which to ask again.
    """

    def __init__(self, status: HTTPStatus, detail: str, *, after: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.after = after


def response_of(error: Exception) -> web.Response:
    """The answer that an error means; what nobody foresaw is logged whole and tells the client nothing."""
    match error:
        case InvalidField():
            return _problem(HTTPStatus.BAD_REQUEST, str(error), invalid=error)
        case Rejected():
            return _problem(error.status, str(error), after=error.after)
        case web.HTTPException():
            answer = _problem(HTTPStatus(error.status), error.reason)
            if allow := error.headers.get("Allow"):
                answer.headers["Allow"] = allow
            return answer
        case Retryable():
            log.warning("API server is away", error=str(error))
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, "the provider's API server is away", after=error.after or 1)
        case Refused():
            log.error("API server refused", error=str(error))
            return _problem(HTTPStatus.BAD_GATEWAY, "the provider's API server refused to store this")
        case _:
            log.error("unexpected", exc_info=error)
            return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a defect of the gateway; it is in its log")


def _problem(
    status: HTTPStatus, detail: str, *, after: float | None = None, invalid: InvalidField | None = None
) -> web.Response:
    body = wire.Problem(
        title=status.phrase,
        status=status,
        detail=detail,
        field=invalid.field if invalid else None,
        value=_shown(invalid.value) if invalid else None,
        expected=invalid.expected if invalid else None,
    )
    headers = {} if after is None else {"Retry-After": str(max(1, round(after)))}
    return web.json_response(body.dump(), status=status, content_type=CONTENT_TYPE, headers=headers)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
