from collections import Counter
from datetime import timedelta
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from edge_resource_manager.domain import wire
from edge_resource_manager.domain.matching import Candidate, Fits
from edge_resource_manager.domain.ranking import rank
from tests.edge_resource_manager.claims.samples import FREE, NOW, candidate

HALF = Fits(Fraction(1, 2))


def order(*offers: tuple[Candidate, Fits], bound: dict[str, int] | None = None) -> list[str]:
    return [each.flavor for each in rank(offers, bound=bound or {}, now=NOW)]


def price(amount: str, currency: str = "EUR", period: str = "hourly") -> wire.Price:
    return wire.Price(amount=amount, currency=currency, period=period)


def test_margin_counts_first_but_not_its_noise() -> None:
    old = NOW - timedelta(hours=2)
    assert order((candidate("a", timestamp=old), Fits(Fraction(3, 10))), (candidate("b", timestamp=old), HALF)) == [
        "b",
        "a",
    ]
    assert order(
        (candidate("a", timestamp=old), Fits(Fraction(58, 100))), (candidate("b"), Fits(Fraction(51, 100)))
    ) == ["b", "a"]


def test_then_what_was_heard_of_lately_in_wide_steps() -> None:
    assert order((candidate("a", timestamp=NOW - timedelta(minutes=5)), HALF), (candidate("b"), HALF)) == ["b", "a"]
    assert order((candidate("a", timestamp=NOW - timedelta(seconds=20)), HALF), (candidate("b"), HALF)) == ["a", "b"]


def test_then_the_cheaper_one_if_prices_compare() -> None:
    assert order((candidate("a", price=price("2")), HALF), (candidate("b", price=price("1.5")), HALF)) == ["b", "a"]
    assert order((candidate("a", price=price("2")), HALF), (candidate("b", price=FREE), HALF)) == ["b", "a"]
    assert order((candidate("a", price=price("2")), HALF), (candidate("b", price=price("1", "USD")), HALF)) == [
        "a",
        "b",
    ]
    assert order(
        (candidate("a", price=price("2")), HALF), (candidate("b", price=price("1", period="daily")), HALF)
    ) == ["a", "b"]


def test_a_price_that_is_none_or_negative_is_the_last() -> None:
    offers = [(candidate("a", price=price(amount)), HALF) for amount in ("NaN", "-5", "cheap")]
    for offer in offers:
        assert order(offer, (candidate("b", price=price("1e9")), HALF)) == ["b", "a"]


def test_then_providers_take_turns_and_who_sold_much_waits() -> None:
    offers = [(candidate(f"{name}{n}", provider=name), HALF) for name in "ab" for n in (1, 2)]
    assert order(*offers) == ["a1", "b1", "a2", "b2"]
    assert order(*offers, bound={"a": 1}) == ["b1", "a1", "b2", "a2"]
    assert order(*offers, bound={"a": 5}) == ["b1", "b2", "a1", "a2"]


def test_one_flavor_from_two_providers_is_one() -> None:
    assert order((candidate("a", provider="x"), HALF), (candidate("a", provider="y"), Fits(Fraction(9, 10)))) == ["a"]
    found = list(
        rank(
            [(candidate("a", provider="x"), HALF), (candidate("a", provider="y"), Fits(Fraction(9, 10)))],
            bound={},
            now=NOW,
        )
    )
    assert found[0].provider == "y"


offers = st.lists(
    st.tuples(
        st.builds(
            candidate,
            st.sampled_from([f"f{n}" for n in range(12)]),
            provider=st.sampled_from(["p1", "p2", "p3"]),
            timestamp=st.integers(-100, 200_000).map(lambda seconds: NOW - timedelta(seconds=seconds)),
            price=st.builds(price, st.sampled_from(["", "0", "1", "2", "-1", "x"]), st.sampled_from(["EUR", "USD"])),
        ),
        st.fractions(0, 1).map(Fits),
    ),
    max_size=12,
)


@given(offers, st.randoms(use_true_random=False))
def test_the_order_depends_on_nothing_but_the_offers(found: list[tuple[Candidate, Fits]], random: object) -> None:
    unique = list({(each.flavor, each.provider): (each, fits) for each, fits in found}.values())
    shuffled = list(unique)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis' Random
    assert order(*unique) == order(*shuffled)
    assert Counter(order(*unique)) == Counter({each.flavor for each, _ in unique})
