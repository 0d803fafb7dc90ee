"""The grammar of REAR's query strings: `filter[<field>][<operator>]=value`, and `limit`.

Source: fluidos-project/node, pkg/utils/parseutil; fluidos-project/REAR, docs/api/openapi.yaml (which says `exact` for
`match`). The exclusive `lessThan` and `greaterThan` are ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from crds.errors import InvalidField

Pairs = Iterable[tuple[str, str]]

DEFAULT_LIMIT = 1000
MAX_LIMIT = 10_000
MAX_FILTERS = 64
MAX_VALUE = 256

_KEY = re.compile(
    r"(?:filter\[(?P<field>\w{1,32})\]|(?P<bare>[a-z_]{1,32}))(?P<operator>(?:\[\w{1,16}\]){0,2})", re.ASCII
)
OPERATORS: Final = {
    "[match]": "match",
    "[exact]": "match",
    "[range][min]": "min",
    "[range][max]": "max",
    "[range][lessThan]": "lessThan",
    "[range][greaterThan]": "greaterThan",
}


@dataclass(frozen=True, slots=True)
class Filter:
    """One key and value of a query; `name` is the key as it was sent, for errors."""

    field: str
    operator: str
    value: str
    name: str

    def text(self) -> str:
        """The value, to be equal to.

        Raises:
            InvalidField: it is asked as a range.
        """
        if self.operator != "match":
            raise InvalidField(
                field=self.name, value=self.value, expected=f"filter[{self.field}][match], it is no number"
            )
        return self.value


def parse_filters(pairs: Pairs, fields: Sequence[str], *, aliases: Mapping[str, str]) -> tuple[list[Filter], int]:
    """The filters of a query, and its limit.

    Args:
        pairs: decoded keys and values in their order; a key may come more than once.
        fields: what can be asked.
        aliases: other names of some of them, which may also stand without `filter[...]` around them.

    Raises:
        InvalidField: anything that is not understood.
    """
    filters: list[Filter] = []
    limit = DEFAULT_LIMIT
    for key, value in pairs:
        if len(value) > MAX_VALUE:
            raise InvalidField(field=key[:80], value=value, expected=f"at most {MAX_VALUE} characters")
        if key == "limit":
            limit = _limit(value)
            continue
        filters.append(_filter(key, value, fields=fields, aliases=aliases))
        if len(filters) > MAX_FILTERS:
            raise InvalidField(field="(query)", value=len(filters), expected=f"at most {MAX_FILTERS} filters")
    return filters, limit


def _filter(key: str, value: str, *, fields: Sequence[str], aliases: Mapping[str, str]) -> Filter:
    parts = _KEY.fullmatch(key)
    if parts is None or (parts["bare"] and parts["bare"] not in aliases):
        raise InvalidField(
            field="(query)", value=key, expected="filter[<field>][match], filter[<field>][range][max] or limit"
        )
    said = parts["field"] or parts["bare"]
    name = aliases.get(said, said)
    if name not in fields:
        raise InvalidField(field=key, value=said, expected=f"one of the fields {', '.join(fields)}")
    operator = OPERATORS.get(parts["operator"] or ("[match]" if parts["bare"] else ""))
    if operator is None:
        raise InvalidField(field=key, value=parts["operator"], expected=f"one of {', '.join(OPERATORS)}")
    return Filter(name, operator, value, key)


def _limit(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", value, re.ASCII) or not 1 <= int(value) <= MAX_LIMIT:
        raise InvalidField(field="limit", value=value, expected=f"a whole number from 1 to {MAX_LIMIT}")
    return int(value)
