"""What of a sensor's readings a route lets through.

A `Filter` is compiled once from a route's `PayloadFilter`; the caller keeps one `FilterState` a topic and lane. States
are values: after a restart they begin anew, which can only let one reading more pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from crds.errors import InvalidField
from crds.models.delivery import PayloadFilter
from crds.predicate import MAX_JUDGED_BYTES, Predicate, compile_predicate
from router_manager.domain.payload import NOT_JSON, Pointer, Record, number_at, parse_pointer

_TOKEN = 1_000_000_000
"""Token buckets count in billionths, so that nanoseconds times a whole rate need no division."""


class Drop(StrEnum):
    """Why a record does not pass."""

    UNREADABLE = "unreadable"
    EXPRESSION = "expression"
    THRESHOLD = "threshold"
    DEADBAND = "deadband"
    EVERY_NTH = "everyNth"
    RATE = "maxPerSecond"


class FilterState(NamedTuple):
    """What the filter remembers of one topic."""

    passed: Decimal | None = None
    """The value that passed last; deadband measures from it."""
    seen: int = 0
    """Records that reached everyNth."""
    tokens: int | None = None
    refilled_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """All that is set must pass, in this order: expression, threshold, deadband, everyNth, maxPerSecond."""

    expression: str | None = None
    predicate: Predicate | None = field(default=None, compare=False)
    """Of the expression; without one that can be compiled nothing passes."""
    threshold: Pointer | None = None
    above: Decimal | None = None
    below: Decimal | None = None
    deadband: Pointer | None = None
    change: Decimal = Decimal(0)
    every_nth: int | None = None
    max_per_second: int | None = None

    @classmethod
    def compile(cls, spec: PayloadFilter) -> Filter:
        """From the route's spec, whose syntax the API server has checked."""
        threshold, deadband = spec.threshold, spec.deadband
        return cls(
            expression=spec.expression,
            predicate=_predicate(spec.expression),
            threshold=parse_pointer(threshold.field) if threshold else None,
            above=Decimal(threshold.above) if threshold and threshold.above else None,
            below=Decimal(threshold.below) if threshold and threshold.below else None,
            deadband=parse_pointer(deadband.field) if deadband else None,
            change=Decimal(deadband.change) if deadband else Decimal(0),
            every_nth=spec.every_nth,
            max_per_second=spec.max_per_second,
        )

    def step(self, state: FilterState, record: Record) -> tuple[FilterState, Drop | None]:
        """Judge one record.

        Returns:
            The state for the next record of the topic, and why this one is dropped (None: it passes).
        """
        passed = state.passed
        if self.expression is not None and (drop := self._denied(record)):
            return state, drop
        if self.threshold is not None and (drop := self._inside(record, self.threshold)):
            return state, drop
        if self.deadband is not None:
            passed = _decimal(record, self.deadband)
            if passed is None:
                return state, Drop.UNREADABLE
            if state.passed is not None and abs(passed - state.passed) < self.change:
                return state, Drop.DEADBAND
        if self.every_nth is not None:
            first = state.seen == 0
            state = state._replace(seen=(state.seen + 1) % self.every_nth)
            if not first:
                return state, Drop.EVERY_NTH
        if self.max_per_second is not None:
            tokens = self._tokens(state, record, self.max_per_second)
            if tokens < _TOKEN:
                return state._replace(tokens=tokens, refilled_ns=record.ingested_ns), Drop.RATE
            state = state._replace(tokens=tokens - _TOKEN, refilled_ns=record.ingested_ns)
        return state._replace(passed=passed), None

    def _denied(self, record: Record) -> Drop | None:
        if self.predicate is None or len(record.payload) > MAX_JUDGED_BYTES or record.value is NOT_JSON:
            return Drop.UNREADABLE
        holds = self.predicate.holds(record.value)
        if holds is None:
            return Drop.UNREADABLE
        return None if holds else Drop.EXPRESSION

    def _inside(self, record: Record, pointer: Pointer) -> Drop | None:
        value = _decimal(record, pointer)
        if value is None:
            return Drop.UNREADABLE
        above = self.above is not None and value > self.above
        below = self.below is not None and value < self.below
        return None if above or below else Drop.THRESHOLD

    @staticmethod
    def _tokens(state: FilterState, record: Record, rate: int) -> int:
        """The bucket as it is when the record comes: full at first, and never above a second's worth."""
        full = rate * _TOKEN
        if state.tokens is None:
            return full
        # A clock that was set back refills nothing; it must not take tokens away either.
        elapsed_ns = max(0, record.ingested_ns - state.refilled_ns)
        return min(full, state.tokens + elapsed_ns * rate)


def _predicate(expression: str | None) -> Predicate | None:
    if expression is None:
        return None
    try:
        return compile_predicate(expression)
    except InvalidField:
        # The manager accepts no such route: it is of another version than this relay. Other routes must not suffer.
        return None


def _decimal(record: Record, pointer: Pointer) -> Decimal | None:
    """The number as it was written: 0.3 is three tenths here, not the nearest binary fraction below."""
    number = number_at(record.value, pointer)
    return None if number is None else Decimal(repr(number))
