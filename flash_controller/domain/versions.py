"""Versions of firmware: Semantic Versioning 2.0.0, and the ranges of them that a Firmware may name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import total_ordering
from operator import eq, ge, gt, le, lt, ne
from typing import Self

from crds.errors import InvalidField

_VERSION = re.compile(
    r"v?(?P<major>0|[1-9]\d{0,8})\.(?P<minor>0|[1-9]\d{0,8})\.(?P<patch>0|[1-9]\d{0,8})"
    r"(?:-(?P<pre>[0-9A-Za-z.-]+))?(?:[+_](?P<build>[0-9A-Za-z.-]+))?",
    re.ASCII,
)
_COMPARATOR = re.compile(
    r"(?P<operator>>=|<=|!=|[=<>~^]?)\s*v?(?P<major>\d{1,9}|[xX*])(?:\.(?P<minor>\d{1,9}|[xX*]))?"
    r"(?:\.(?P<patch>\d{1,9}|[xX*]))?(?:-(?P<pre>[0-9A-Za-z.-]+))?",
    re.ASCII,
)
_OPERATORS: dict[str, Callable[[Precedence, Precedence], bool]] = {
    ">": gt,
    ">=": ge,
    "<": lt,
    "<=": le,
    "=": eq,
    "!=": ne,
}

Precedence = tuple[tuple[int, int, int], tuple[tuple[int, int, str], ...]]


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """A semantic version, ordered.

    A numeric build counts last in the order, though SemVer ignores builds: MCUboot's `1.2.3+4` is newer than `1.2.3+3`.
    """

    text: str = field(compare=False)
    core: tuple[int, int, int]
    pre: str = ""
    build: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `1.2.3-rc.1+4`, with or without a `v` in front; `_` for `+`, which tags must not have, as Helm has it.

        Raises:
            InvalidField: it is no semantic version.
        """
        found = _VERSION.fullmatch(text)
        if found is None:
            raise InvalidField(field="version", value=text, expected="a semantic version such as 1.2.3")
        core = (int(found["major"]), int(found["minor"]), int(found["patch"]))
        return cls(text, core, found["pre"] or "", found["build"] or "")

    @property
    def precedence(self) -> Precedence:
        """What SemVer 11 compares: numbers come before words, and a release after its pre-releases."""
        words = tuple((0, int(word), "") if _is_number(word) else (1, 0, word) for word in self.pre.split("."))
        return self.core, words if self.pre else ((2, 0, ""),)

    def _key(self) -> tuple[Precedence, int]:
        return self.precedence, int(self.build) if _is_number(self.build) else 0

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Version) else NotImplemented

    def __lt__(self, other: Version) -> bool:
        return self._key() < other._key()

    def __hash__(self) -> int:
        return hash(self._key())


@dataclass(frozen=True, slots=True)
class Range:
    """Versions between bounds: any of the alternatives, of which each is a list of comparators that all hold."""

    alternatives: tuple[tuple[Comparator, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `>=1.2 <2`, `~1.4`, `^2`, `1.x`, `*`; comma or blank is and, `||` is or.

        Raises:
            InvalidField: it is no such range.
        """
        return cls(tuple(_comparators(part, text) for part in text.split("||")))

    def includes(self, version: Version) -> bool:
        """Whether it is within. A pre-release is so only beside one of the same release: people mean releases."""
        return any(
            all(bound.holds(version) for bound in bounds)
            and (not version.pre or any(bound.version.pre and bound.version.core == version.core for bound in bounds))
            for bounds in self.alternatives
        )

    def newest(self, tags: list[str]) -> str | None:
        """The tag of the newest version within; tags that are no versions are left aside."""
        within = [version for tag in tags if _VERSION.fullmatch(tag) and self.includes(version := Version.parse(tag))]
        return max(within).text if within else None


@dataclass(frozen=True, slots=True)
class Comparator:
    """One bound."""

    operator: str
    version: Version

    def holds(self, version: Version) -> bool:
        """Whether a version is on its side, whatever its build."""
        return _OPERATORS[self.operator](version.precedence, self.version.precedence)


def _comparators(part: str, text: str) -> tuple[Comparator, ...]:
    found: list[Comparator] = []
    rest = part.replace(",", " ").strip()
    while rest or not found:
        match = _COMPARATOR.match(rest)
        if match is None or (match.end() < len(rest) and not rest[match.end()].isspace()):
            raise InvalidField(field="semver", value=text, expected="a range such as >=1.2 <2, ~1.4 or ^2")
        found += _bounds(match["operator"], [match["major"], match["minor"], match["patch"]], match["pre"] or "")
        rest = rest[match.end() :].lstrip()
    return tuple(found)


def _bounds(operator: str, words: list[str | None], pre: str) -> list[Comparator]:
    """What an operator and a version of which parts may be left out mean, in plain bounds."""
    stated = []
    for word in words:
        if word is None or not word.isdigit():
            break
        stated.append(int(word))
    lowest = _release(stated, pre)
    if operator in {"", "="} and len(stated) < 3:
        operator = "~"
    match operator:
        case "~":
            fixed = min(len(stated), 2)
        case "^":
            # Up to the first part that is not 0: below 1.0.0 every such part may break something.
            fixed = next((at + 1 for at, value in enumerate(stated) if value), len(stated))
        case ">" | "<=" if len(stated) < 3:
            # >1.2 is past all of 1.2, and <=1.2 takes all of it in.
            if not stated:
                return [Comparator("<" if operator == ">" else ">=", lowest)]
            return [Comparator(">=" if operator == ">" else "<", _release(_next(stated)))]
        case _:
            return [Comparator(operator or "=", lowest)]
    return [Comparator(">=", lowest)] + ([Comparator("<", _release(_next(stated[:fixed])))] if fixed else [])


def _next(stated: list[int]) -> list[int]:
    return [*stated[:-1], stated[-1] + 1]


def _release(stated: list[int], pre: str = "") -> Version:
    major, minor, patch = (*stated, 0, 0, 0)[:3]
    return Version(f"{major}.{minor}.{patch}", (major, minor, patch), pre)


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit()
