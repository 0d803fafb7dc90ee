"""Challenges are answered once, in time, by whom they were given to."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.errors import InvalidField
from spire.domain.errors import Reason, Untrusted
from spire.domain.nonces import LIFETIME, NONCE_SIZE, Nonces
from tests.spire.support import NOW, PEER


def nonce(number: int) -> bytes:
    return number.to_bytes(NONCE_SIZE, "big")


def test_a_nonce_is_answered_once() -> None:
    nonces = Nonces()
    given_ = nonces.give(nonce(1), peer=PEER, now=NOW)
    nonces.check(given_, peer=PEER, now=NOW)
    nonces.redeem(given_, peer=PEER, now=NOW)
    for again in (nonces.check, nonces.redeem):
        with pytest.raises(Untrusted, match="has been used") as caught:
            again(given_, peer=PEER, now=NOW)
        assert caught.value.reason == Reason.NONCE_REFUSED


def test_a_nonce_of_somebody_else_or_of_nobody_is_refused_and_stays_open() -> None:
    nonces = Nonces()
    nonces.give(nonce(1), peer=PEER, now=NOW)
    with pytest.raises(Untrusted):
        nonces.redeem(nonce(1), peer="another", now=NOW)
    with pytest.raises(Untrusted):
        nonces.redeem(nonce(2), peer=PEER, now=NOW)
    nonces.redeem(nonce(1), peer=PEER, now=NOW)


def test_a_nonce_lives_a_minute() -> None:
    nonces = Nonces()
    nonces.give(nonce(1), peer=PEER, now=NOW)
    nonces.check(nonce(1), peer=PEER, now=NOW + LIFETIME - timedelta(microseconds=1))
    with pytest.raises(Untrusted, match="older than 60 s"):
        nonces.redeem(nonce(1), peer=PEER, now=NOW + LIFETIME)


@pytest.mark.parametrize("size", [0, 8, 31, 33])
def test_a_nonce_has_256_bits(size: int) -> None:
    with pytest.raises(InvalidField, match="32 bytes"):
        Nonces().give(bytes(size), peer=PEER, now=NOW)


def test_a_flood_costs_bounded_memory_and_locks_nobody_out() -> None:
    nonces = Nonces(capacity=100)
    for number in range(1000):
        nonces.give(nonce(number), peer="flood", now=NOW)
    assert len(nonces) == 100
    nonces.give(nonce(5000), peer=PEER, now=NOW)
    for number in range(99):
        nonces.give(nonce(10_000 + number), peer="flood", now=NOW)
    nonces.redeem(nonce(5000), peer=PEER, now=NOW)


def test_old_nonces_are_forgotten_when_new_ones_come() -> None:
    nonces = Nonces()
    for number in range(50):
        nonces.give(nonce(number), peer=PEER, now=NOW)
    nonces.give(nonce(50), peer=PEER, now=NOW + LIFETIME)
    assert len(nonces) == 1


@given(st.lists(st.tuples(st.sampled_from(["give", "redeem"]), st.integers(0, 5), st.integers(0, 40)), max_size=40))
@settings(max_examples=100)
def test_no_nonce_is_ever_redeemed_twice_or_late(steps: list[tuple[str, int, int]]) -> None:
    nonces, now, counter, redeemed = Nonces(capacity=4), NOW, 0, set()
    open_: dict[bytes, object] = {}
    for step, which, seconds in steps:
        now += timedelta(seconds=seconds)
        if step == "give":
            counter += 1
            open_[nonces.give(nonce(counter), peer=PEER, now=now)] = now
        else:
            candidate = nonce(which + 1)
            try:
                nonces.redeem(candidate, peer=PEER, now=now)
            except Untrusted:
                continue
            assert candidate not in redeemed
            assert now - open_[candidate] < LIFETIME  # type: ignore[operator]  # times
            redeemed.add(candidate)
        assert len(nonces) <= 4
