"""Age by a clock that does not jump."""

from hypothesis import given, settings
from hypothesis import strategies as st

from router_manager.domain.ages import Ages


def test_what_came_before_a_moment_is_below_the_floor() -> None:
    ages = Ages()
    ages.note(11, now=100.0)
    ages.note(21, now=200.0)
    ages.note(21, now=900.0)
    assert [ages.floor(at) for at in (99.0, 100.0, 199.0, 200.0, 1000.0)] == [0, 11, 11, 21, 21]


def test_the_ages_of_an_earlier_life_go_on() -> None:
    ages = Ages([(11, 300.0), (21, 100.0)], now=50.0)
    assert [ages.floor(50.0 - age) for age in (301, 300, 101, 100)] == [0, 11, 11, 21]


def test_a_clock_that_was_set_makes_nothing_older_than_what_came_before_it() -> None:
    ages = Ages([(11, 5.0), (21, 10**9), (31, -7.0)], now=1000.0)
    assert [ages.floor(1000.0 - age) for age in (6, 5, 0)] == [0, 21, 31]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=50), st.integers(1, 400))
@settings(max_examples=20, deadline=None)
def test_however_many_marks_there_were_nothing_younger_is_below_the_floor(steps: list[int], rounds: int) -> None:
    ages, came, next_id, now = Ages(), [], 1, 0
    for step in steps * rounds:
        now += step
        next_id += step
        came.append((now, next_id))
        ages.note(next_id, now=float(now))
    assert len(ages._marks) <= 4096
    for at, end in (came[0], came[len(came) // 2], came[-1]):
        assert ages.floor(float(at)) <= end
    assert ages.floor(float(now)) == next_id
