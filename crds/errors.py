"""Errors that say whether a retry helps.

Adapters and domains raise these; handlers alone turn them into conditions, Events and delays.
"""

from __future__ import annotations


class EdgeError(Exception):
    """Base of every error that this project raises on purpose."""


class Retryable(EdgeError):  # noqa: N818 - the word says what to do, as kopf's TemporaryError does
    """The other side may answer differently later.

    Attributes:
        after: seconds to wait before the next try, or None for the caller's own backoff.
    """

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Terminal(EdgeError):  # noqa: N818 - see Retryable
    """No retry helps until the input changes.

    Attributes:
        reason: a CamelCase reason for a condition.
    """

    def __init__(self, message: str, *, reason: str = "Invalid") -> None:
        super().__init__(message)
        self.reason = reason


class Stopped(EdgeError):  # noqa: N818 - an order, not an error
    """Told to stop before the work had begun."""


class InvalidField(Terminal):
    """A value that is refused, told by field, value and what was expected."""

    def __init__(self, *, field: str, value: object, expected: str, reason: str = "InvalidField") -> None:
        shown = repr(value)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        super().__init__(f"{field}: {shown} is not valid, expected {expected}", reason=reason)
        self.field = field
        self.value = value
        self.expected = expected
