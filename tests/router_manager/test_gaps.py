"""Readings that are missing, by their numbers."""

from hypothesis import given
from hypothesis import strategies as st

from router_manager.domain.gaps import WINDOW, Gaps


def missing(*numbers: int) -> int:
    gaps = Gaps()
    for number in numbers:
        gaps.observe(number)
    return gaps.missing


def test_numbers_that_were_passed_over_are_missing_until_they_come() -> None:
    assert missing() == 0
    assert missing(7) == 0
    assert missing(7, 8, 11) == 2
    assert missing(7, 8, 11, 9) == 1
    assert missing(7, 8, 11, 11, 11) == 2


def test_a_device_that_counts_anew_has_lost_nothing_by_that() -> None:
    assert missing(5 * WINDOW, 5 * WINDOW + 2, 0, 1, 3) == 2
    assert missing(0, 2**40, 2**40 + 1) == 0


@given(order=st.permutations(range(40)), lost=st.sets(st.integers(0, 39), max_size=39), twice=st.integers(0, 39))
def test_in_whatever_order_they_come_those_between_the_ends_are_counted(
    order: list[int], lost: set[int], twice: int
) -> None:
    came = [number for number in order if number not in lost]
    came += [number for number in came if number == twice]
    assert missing(*came) == max(came) - min(came) + 1 - len(set(came))
