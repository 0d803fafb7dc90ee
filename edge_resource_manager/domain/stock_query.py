"""Filters on the flavors that stock FLUIDOS nodes sell: K8Slice and Service.

Source: fluidos-project/node, pkg/utils/models/filters.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from crds.errors import InvalidField
from edge_resource_manager.domain.filters import DEFAULT_LIMIT, Pairs, parse_filters


@dataclass(frozen=True, slots=True)
class StockQuery:
    """A list request for K8Slice or Service flavors, understood."""

    texts: tuple[tuple[str, str], ...] = ()
    quantities: tuple[tuple[str, Fraction | None, Fraction | None], ...] = ()
    limit: int = DEFAULT_LIMIT

    def matches(self, type_data: Mapping[str, Any]) -> bool:
        """Whether a flavor's `typeData` satisfies every filter; what cannot be read satisfies none."""
        known = type_data.get("characteristics", type_data)
        if not isinstance(known, Mapping):
            return False
        return all(_has_text(known.get(name), text) for name, text in self.texts) and all(
            _within(known.get(name), lower, upper) for name, lower, upper in self.quantities
        )


_QUANTITIES = ("cpu", "memory", "pods", "storage")
K8SLICE_FIELDS = ("architecture", *_QUANTITIES)
SERVICE_FIELDS = ("category", "tags")


def parse_k8slice_query(pairs: Pairs) -> StockQuery:
    """Read the query of `GET /flavors/k8slice`; amounts are Kubernetes quantities (`500m`, `2Gi`).

    Raises:
        InvalidField: an unknown field or operator, or no quantity.
    """
    return _stock_query(pairs, fields=K8SLICE_FIELDS)


def parse_service_query(pairs: Pairs) -> StockQuery:
    """Read the query of `GET /flavors/service`. `tags` matches one of the flavor's.

    Raises:
        InvalidField: an unknown field or operator.
    """
    return _stock_query(pairs, fields=SERVICE_FIELDS)


def _stock_query(pairs: Pairs, *, fields: tuple[str, ...]) -> StockQuery:
    filters, limit = parse_filters(pairs, fields, aliases={})
    matches: list[tuple[str, str]] = []
    ranges: list[tuple[str, Fraction | None, Fraction | None]] = []
    for asked in filters:
        if asked.field not in _QUANTITIES:
            matches.append((asked.field, asked.text()))
            continue
        amount = quantity(asked.value)
        if amount is None:
            raise InvalidField(
                field=asked.name, value=asked.value, expected="a Kubernetes quantity such as 500m or 2Gi"
            )
        match asked.operator:
            case "match":
                ranges.append((asked.field, amount, amount))
            case "min":
                ranges.append((asked.field, amount, None))
            case "max":
                ranges.append((asked.field, None, amount))
            case other:
                raise InvalidField(field=asked.name, value=other, expected="[match], [range][min] or [range][max]")
    return StockQuery(texts=tuple(matches), quantities=tuple(ranges), limit=limit)


_QUANTITY = re.compile(
    r"(?P<number>[+-]?[0-9]{1,30}(?:\.[0-9]{1,30})?)(?P<suffix>[numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?"
)
_SUFFIXES = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def quantity(value: object) -> Fraction | None:
    """A Kubernetes quantity, or None."""
    found = _QUANTITY.fullmatch(str(value)) if isinstance(value, str | int) else None
    if found is None:
        return None
    number, suffix = Fraction(found["number"]), found["suffix"] or ""
    if suffix.endswith("i"):
        return number * Fraction(1024) ** ("KMGTPE".index(suffix[0]) + 1)
    if len(suffix) > 1:
        return number * Fraction(10) ** int(suffix[1:])
    return number * Fraction(10) ** _SUFFIXES.get(suffix, 0)


def _has_text(value: object, text: str) -> bool:
    return text in value if isinstance(value, list) else value == text


def _within(value: object, lower: Fraction | None, upper: Fraction | None) -> bool:
    amount = quantity(value)
    return amount is not None and (lower is None or amount >= lower) and (upper is None or amount <= upper)
