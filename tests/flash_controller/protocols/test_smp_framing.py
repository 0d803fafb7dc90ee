"""SMP messages survive every cut of a stream, and noise is never taken for one."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from smpclient.requests.image_management import ImageStatesRead
from smpclient.requests.os_management import EchoWrite

from flash_controller.protocols.smp_framing import LONGEST_LINE, Datagrams, Fragments, Lines
from tests.flash_controller.protocols.boards import FRAMINGS

TEXTS = st.lists(st.text(max_size=200), min_size=1, max_size=4)
# What a console prints; only SMP uses these delimiters.
NOISE = st.lists(st.sampled_from(sorted(set(range(256)) - {4, 6, 10})), max_size=30).map(
    lambda noise: bytes(noise) + b"\r\n"
)
# The machine may have other things to do.
BUSY = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("kind", FRAMINGS)
@BUSY
@given(texts=TEXTS)
def test_what_is_encoded_is_decoded(kind: str, texts: list[str]) -> None:
    messages = [EchoWrite(d=text).BYTES for text in texts]
    sender, receiver = FRAMINGS[kind](), FRAMINGS[kind]()
    got = [each for message in messages for frame in sender.encode(message) for each in receiver.feed(frame)]
    assert got == messages


@BUSY
@given(texts=TEXTS, noise=st.lists(NOISE, min_size=1), cuts=st.lists(st.integers(1, 90), min_size=1))
def test_a_console_may_print_between_the_lines_and_a_stream_is_cut_anywhere(
    texts: list[str], noise: list[bytes], cuts: list[int]
) -> None:
    messages = [EchoWrite(d=text).BYTES for text in texts]
    lines = [line for each in messages for frame in Lines().encode(each) for line in frame.splitlines(keepends=True)]
    stream = b"".join(noise[number % len(noise)] + line for number, line in enumerate(lines))
    receiver = Lines()
    got: list[bytes] = []
    for number in range(len(stream)):
        step = cuts[number % len(cuts)]
        got += receiver.feed(stream[:step])
        stream = stream[step:]
    assert got == messages


def test_a_message_in_lines_is_the_one_of_the_specification() -> None:
    assert b"".join(Lines().encode(bytes.fromhex("0800000100014200a0"))) == b"\x06\x09AAsIAAABAAFCAKDczA==\n"


@pytest.mark.parametrize("kind", FRAMINGS)
@BUSY
@given(frames=st.lists(st.binary(min_size=1, max_size=200), max_size=10))
def test_noise_raises_nothing(kind: str, frames: list[bytes]) -> None:
    receiver = FRAMINGS[kind]()
    for frame in frames:
        for message in receiver.feed(frame):
            assert len(message) >= 8


def test_a_line_with_a_wrong_checksum_is_left_out_and_the_next_is_read() -> None:
    (good,) = Lines().encode(ImageStatesRead(sequence=1).BYTES)
    receiver = Lines()
    assert list(receiver.feed(good.replace(b"AAsIAAABAAEBAK", b"AAsIAAABAAECAK"))) == []
    assert len(list(receiver.feed(good))) == 1


def test_a_line_that_never_ends_fills_no_memory() -> None:
    receiver = Lines()
    for _ in range(10):
        assert list(receiver.feed(b"x" * LONGEST_LINE)) == []
    assert len(receiver._buffer) <= LONGEST_LINE


def test_capacity_is_what_link_and_server_can_hold() -> None:
    assert Datagrams(1472).capacity(2048) == 1472
    assert Fragments(20).capacity(384) == 384
    assert Lines().capacity(384) == 380
