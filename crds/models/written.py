"""What people write into ConfigMaps: YAML, read without mercy.

A key that nobody knows is refused and not ignored: a word misspelt must not make a policy milder than it reads.
"""

from __future__ import annotations

from typing import Any, Self

import yaml
from pydantic import ConfigDict

from crds.errors import InvalidField
from crds.models.base import Model, validate


class Written(Model):
    """A value, or a part of one, that is written in YAML."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def parse_yaml(cls, text: str, *, field: str) -> Self:
        """Read a text.

        Args:
            text: YAML, of which JSON is a part.
            field: where it stands, put before the path in errors.

        Raises:
            InvalidField: names what is wrong, its value and what was expected.
        """
        try:
            said: Any = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader, and stricter
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
            raise InvalidField(field=field, value=text, expected=f"YAML ({error})") from error
        return validate(cls, {} if said is None else said, field=field)


class _Loader(yaml.SafeLoader):
    """YAML without the two ways in which a reader is misled: a key twice, and an alias that swells."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse aliases."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # types-PyYAML has no type for it
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - the base class' signature
        """Refuse a key that is there twice."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)
