"""Objects that a structural schema allows, and objects that are wrong in one or two places."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Json = Any
Schema = dict[str, Any]

NOTHING: Mapping[str, Json] = {}
ALPHABET = "abcXYZ019-_./°µ é\u00a0\n"


def values(schema: Schema, likely: Mapping[str, Json] = NOTHING) -> st.SearchStrategy[Json]:
    """What the schema allows; its CEL rules may still refuse it.

    Args:
        schema: of a CRD.
        likely: by the name of a property, values that rules allow: chance seldom finds them.
    """
    if schema.get("x-kubernetes-int-or-string"):
        return st.one_of(st.integers(min_value=-1, max_value=300), st.sampled_from(["All", "all", "3", ""]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "object" if "additionalProperties" in schema:
            return st.dictionaries(
                st.text("ab/.", max_size=4), values(schema["additionalProperties"], likely), max_size=2
            )
        case "object":
            return _objects(schema, likely)
        case "array":
            low = schema.get("minItems", 0)
            return st.lists(values(schema["items"], likely), min_size=low, max_size=max(low, 2))
        case "integer":
            low, high = schema["minimum"], schema["maximum"]
            return st.one_of(st.sampled_from([low, high]), st.integers(low, min(high, low + 30)))
        case "boolean":
            return st.booleans()
        case "string":
            return _strings(schema)
        case other:
            raise AssertionError(other)


def nearly(schema: Schema, likely: Mapping[str, Json]) -> st.SearchStrategy[Json]:
    """What the schema allows, then up to two places of it spoilt."""
    allowed = values(schema, likely)

    @st.composite
    def spoilt(draw: st.DrawFn) -> Json:
        root = {"": draw(allowed)}
        for _ in range(draw(st.integers(min_value=0, max_value=2))):
            places = list(_places(root, {"properties": {"": schema}}))
            if places:
                draw(st.sampled_from(places)).spoil(draw)
        return root.get("", {})

    return spoilt()


@dataclass(frozen=True)
class _Place:
    container: Json
    key: Any
    schema: Schema

    def spoil(self, draw: st.DrawFn) -> None:
        value = self.container[self.key]
        spoilt: list[Json] = [True, 7, 1.5, "x", "", [], {}]
        match value:
            case str():
                long = "a" * (self.schema.get("maxLength", 3) + 1)
                spoilt += [
                    value + "\n",
                    value + " ",
                    value[:-1] + "\u00a0" + value[-1:],
                    value.swapcase(),
                    value[:-1],
                    long,
                ]
            case bool():
                pass
            case int():
                spoilt += [-1, value - 1, value + 1, self.schema.get("maximum", 0) + 1, 2**63 - 1]
            case list():
                spoilt += [value + value[:1], (value or ["x"]) * (self.schema.get("maxItems", 1) + 1)]
            case dict():
                spoilt += [{**value, "unknown": 1}]
        if isinstance(self.container, dict) and draw(st.integers(min_value=0, max_value=3)) == 0:
            del self.container[self.key]
        else:
            self.container[self.key] = draw(st.sampled_from(spoilt))


def _objects(schema: Schema, likely: Mapping[str, Json]) -> st.SearchStrategy[Json]:
    properties = {name: _property(name, field, likely) for name, field in schema.get("properties", {}).items()}
    required = {name: properties.pop(name) for name in schema.get("required", ())}
    return st.fixed_dictionaries(required, optional=properties)


def _property(name: str, schema: Schema, likely: Mapping[str, Json]) -> st.SearchStrategy[Json]:
    if name not in likely:
        return values(schema, likely)
    # A copy each time: objects are spoilt in place.
    chosen = st.sampled_from(likely[name]).map(copy.deepcopy)
    return st.one_of(chosen, chosen, chosen, values(schema, likely))


def _strings(schema: Schema) -> st.SearchStrategy[str]:
    low, high = schema.get("minLength", 0), schema["maxLength"]
    if "pattern" in schema:
        return st.from_regex(schema["pattern"].removesuffix("$") + r"\Z").filter(
            lambda value: low <= len(value) <= high
        )
    return st.one_of(st.text(ALPHABET, min_size=low, max_size=min(low + 12, high)), st.just("°" * high))


def _places(value: Json, schema: Schema) -> Iterator[_Place]:
    match value:
        case dict():
            for key, field in schema.get("properties", {}).items():
                if key in value:
                    yield _Place(value, key, field)
                    yield from _places(value[key], field)
        case list():
            for index, item in enumerate(value):
                yield _Place(value, index, schema.get("items", {}))
                yield from _places(item, schema.get("items", {}))
