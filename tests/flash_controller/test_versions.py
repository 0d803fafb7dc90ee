"""Versions and ranges of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.errors import InvalidField
from flash_controller.domain.versions import Range, Version

# The example of SemVer 11, and MCUboot's builds.
ASCENDING = [
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.0+3",
    "1.0.0+12",
    "1.0.1",
    "1.10.0",
    "2.0.0",
]
NUMBERS = st.integers(0, 12)
VERSIONS = st.builds("{}.{}.{}{}".format, NUMBERS, NUMBERS, NUMBERS, st.sampled_from(["", "-rc.1", "+4"]))


def test_versions_have_an_order() -> None:
    versions = [Version.parse(text) for text in reversed(ASCENDING)]
    assert [version.text for version in sorted(versions)] == ASCENDING
    assert len(set(versions)) == len(versions)


@pytest.mark.parametrize(
    "text",
    ["", "1.2", "1.2.3.4", "01.2.3", "1.2.x", "latest", "1.2.3-", "\N{ARABIC-INDIC DIGIT ONE}.2.3", "1" * 10 + ".0.0"],
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match="semantic version"):
        Version.parse(text)


@pytest.mark.parametrize(
    ("text", "within", "without"),
    [
        (">=1.2 <2", ["1.2.0", "1.9.9", "1.2.3+4"], ["1.1.9", "2.0.0", "1.3.0-rc.1"]),
        (">=1.2, <2", ["1.2.0"], ["2.0.0"]),
        ("~1.4", ["1.4.0", "1.4.9"], ["1.5.0", "1.3.9"]),
        ("~1.4.2", ["1.4.2", "1.4.9"], ["1.4.1", "1.5.0"]),
        ("^1.2", ["1.2.0", "1.9.0"], ["1.1.0", "2.0.0"]),
        ("^0.3.1", ["0.3.1", "0.3.9"], ["0.4.0", "1.0.0"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4"]),
        ("1.x", ["1.0.0", "1.9.0"], ["2.0.0"]),
        ("*", ["0.0.1", "9.0.0"], ["1.0.0-rc.1"]),
        ("1.2.3", ["1.2.3", "1.2.3+7"], ["1.2.4"]),
        (">1.2", ["1.3.0"], ["1.2.9"]),
        ("<=1.2", ["1.2.9"], ["1.3.0"]),
        ("!=1.2.3 ~1.2", ["1.2.4"], ["1.2.3"]),
        ("~1.2 || ^3", ["1.2.7", "3.4.0"], ["2.0.0"]),
        (">=1.3.0-rc.1", ["1.3.0-rc.2", "1.3.0"], ["1.3.0-alpha", "1.4.0-rc.1"]),
        ("^1.3.0-rc.1", ["1.3.0-rc.1"], ["2.0.0-rc.1"]),
    ],
)
def test_a_range_holds_what_it_says(text: str, within: list[str], without: list[str]) -> None:
    found = Range.parse(text)
    assert [each for each in within if not found.includes(Version.parse(each))] == []
    assert [each for each in without if found.includes(Version.parse(each))] == []


@pytest.mark.parametrize("text", ["", " ", ">=", "a", "1..2", ">=1.2 ||", "1.2.3.4", ">=1.2<2", "> = 1"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match="a range such as"):
        Range.parse(text)


def test_the_newest_tag_within_a_range_is_taken() -> None:
    tags = ["latest", "v1.2.0", "1.10.0", "1.9.0", "2.0.0", "1.11.0-rc.1", "1.10.0_3", "sha256-ab.sig"]
    assert Range.parse("^1").newest(tags) == "1.10.0_3"
    assert Range.parse("^3").newest(tags) is None


@given(low=VERSIONS, version=VERSIONS)
def test_a_caret_holds_no_older_and_no_next_major_version(low: str, version: str) -> None:
    if Range.parse(f"^{low.partition('+')[0]}").includes(found := Version.parse(version)):
        assert found.precedence >= Version.parse(low).precedence
        assert found.core[0] == Version.parse(low).core[0]
