"""Predicates over a reading: CEL over `payload`, as a route's filter has them.

They come from buyers and meet payloads from devices, so what they may cost is bounded before they run: there is no
macro that loops, no function that builds, searches by or looks up what a payload says (patterns, time zones), and
neither expression nor payload is long. What is left takes time in proportion to the two lengths.
Source: github.com/google/cel-spec, doc/langdef.md.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cel_expr_python import cel

from crds.errors import InvalidField

MAX_PREDICATE = 1024
MAX_JUDGED_BYTES = 16 * 1024
"""Of a payload; a longer one is not read for an expression."""

_ENVIRONMENT = cel.NewEnv(
    config=cel.NewEnvConfigFromYaml(
        """
        stdlib:
          exclude_macros: [all, exists, exists_one, filter, map]
          exclude_functions: [{name: matches}, {name: timestamp}, {name: duration}]
        extensions: [{name: optional}]
        """
    ),
    variables={"payload": cel.Type.DYN},
)


class Predicate:
    """A compiled expression. Build it with `compile_predicate`."""

    def __init__(self, expression: str, compiled: cel.Expression) -> None:
        self.expression = expression
        self._compiled = compiled

    def holds(self, payload: Any) -> bool | None:
        """Judge one reading, a JSON value; None when the expression has no truth value for it."""
        try:
            value = self._compiled.eval(data={"payload": payload})
        except RuntimeError:
            return None
        answer = value.plain_value() if value.type() == cel.Type.BOOL else None
        return answer if isinstance(answer, bool) else None


@lru_cache(maxsize=1024)
def compile_predicate(expression: str, *, field: str = "expression") -> Predicate:
    """Check and compile.

    Raises:
        InvalidField: too long, a syntax error, an unknown name, or a type that is not boolean.
    """
    if len(expression) > MAX_PREDICATE:
        raise InvalidField(field=field, value=expression, expected=f"at most {MAX_PREDICATE} characters")
    try:
        compiled = _ENVIRONMENT.compile(expression)
    except RuntimeError as error:
        why = str(error).partition("\n")[0].removeprefix("INVALID_ARGUMENT: ").removeprefix("ERROR: ")[:200]
        raise InvalidField(
            field=field, value=expression, expected=f"a CEL expression over `payload` ({why})"
        ) from error
    if compiled.return_type() not in (cel.Type.BOOL, cel.Type.DYN):
        expected = f"a boolean CEL expression, not {compiled.return_type().name()}"
        raise InvalidField(field=field, value=expression, expected=expected)
    return Predicate(expression, compiled)
