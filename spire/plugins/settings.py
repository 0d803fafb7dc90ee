"""What is in a `plugin_data_file`: JSON, which SPIRE hands over byte for byte (a `plugin_data` block it rewrites)."""

from __future__ import annotations

from typing import Any, Final

import orjson

from crds.errors import InvalidField

MAX_BYTES: Final = 4 << 20


def parse_json(text: str) -> dict[str, Any]:
    """The object.

    Raises:
        InvalidField: no JSON, or no object.
    """
    field, expected = "plugin_data_file", "a file with a JSON object"
    if len(text) > MAX_BYTES:
        raise InvalidField(field=field, value=f"{len(text)} characters", expected=f"at most {MAX_BYTES}")
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidField(field=field, value=text, expected=f"{expected} ({error})") from error
    if not isinstance(said, dict):
        raise InvalidField(field=field, value=said, expected=expected)
    return said
