"""Two slots: whenever the power goes, the next boot starts a whole image; what nobody confirms runs once."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.errors import InvalidField
from scripts.simulator.firmware import Application, application_of, build
from scripts.simulator.flash import PRIMARY, SECONDARY, SLOT_BYTES, STEPS, Flash, PowerCutError, UnbootableError
from scripts.simulator.flash import SECTOR_BYTES as SECTOR


@cache
def image(version: str, *, counter: int = 1, size: int = 3 * SECTOR) -> bytes:
    return build(Application(application=f"app-{version}"), version=version, security_counter=counter, size=size)


def flash_with(directory: Path, second: bytes | None = None) -> Flash:
    flash = Flash(directory)
    flash.install(image("1.0.0"))
    if second is not None:
        flash.erase()
        flash.write(0, second)
    return flash


def versions(flash: Flash) -> list[str | None]:
    return [slot.image.version if (slot := flash.slot(name)) else None for name in (PRIMARY, SECONDARY)]


def boots(flash: Flash) -> str | None:
    return flash.boot().image.version


def test_what_the_code_says_is_what_the_board_does(tmp_path: Path) -> None:
    assert application_of(flash_with(tmp_path).boot()).application == "app-1.0.0"


def test_a_test_is_reverted_unless_it_is_confirmed(tmp_path: Path) -> None:
    flash = flash_with(tmp_path, image("2.0.0"))
    assert boots(flash) == "1.0.0"
    flash.mark(permanent=False)
    assert boots(flash) == "2.0.0"
    assert versions(flash) == ["2.0.0", "1.0.0"]
    assert boots(flash) == "1.0.0"
    assert boots(flash) == "1.0.0"
    flash.mark(permanent=False)
    assert boots(flash) == "2.0.0"
    flash.confirm()
    assert boots(flash) == "2.0.0"


def test_what_was_marked_for_good_needs_no_confirmation(tmp_path: Path) -> None:
    flash = flash_with(tmp_path, image("2.0.0"))
    flash.mark(permanent=True)
    assert [boots(flash), boots(flash)] == ["2.0.0", "2.0.0"]


@pytest.mark.parametrize(
    "second",
    [image("2.0.0")[:-1], image("2.0.0").replace(b"app-2", b"app-3"), image("2.0.0", counter=0), b"no image"],
    ids=["truncated", "changed", "older security counter", "no image"],
)
def test_what_may_not_be_started_is_not_swapped_in(second: bytes, tmp_path: Path) -> None:
    flash = flash_with(tmp_path, second)
    flash.mark(permanent=False)
    assert boots(flash) == "1.0.0"
    assert flash.state.swap is None


def test_a_board_with_a_key_starts_signed_images_only(tmp_path: Path) -> None:
    for name in ("own", "other"):
        subprocess.run(imgtool("keygen", "-t", "ecdsa-p256", "-k", tmp_path / f"{name}.pem"), check=True)
    public = tmp_path / "public.pem"
    subprocess.run(imgtool("getpub", "-k", tmp_path / "own.pem", "-e", "pem", "-o", public), check=True)

    def booted(name: str, key: Path | None) -> str | None:
        flash_with(
            tmp_path / name, build(Application(application="signed"), version="2.0.0", security_counter=1, key=key)
        ).mark(permanent=False)
        return boots(Flash(tmp_path / name, key=public))

    assert booted("unsigned", None) == "1.0.0"
    assert booted("strange", tmp_path / "other.pem") == "1.0.0"
    assert booted("signed", tmp_path / "own.pem") == "2.0.0"


def imgtool(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "imgtool.main", *map(str, arguments)]


def test_an_empty_board_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(UnbootableError):
        Flash(tmp_path).boot()


def test_code_that_says_nothing_is_named(tmp_path: Path) -> None:
    flash = Flash(tmp_path)
    flash.install(image("1.0.0"))
    slot = flash.boot()
    assert slot.body.startswith(b"{")
    with pytest.raises(InvalidField, match=r"image\.manifest"):
        application_of(type(slot)(slot.image, slot.data.replace(b"{", b"\x00")))


SWAP_BYTES = STEPS * (SECTOR + 1)
"""Written by one swap: sectors, and a note of each."""


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, SWAP_BYTES), max_size=3), confirms=st.booleans())
def test_a_swap_that_is_cut_anywhere_and_often_ends_all_the_same(
    cuts: list[int], confirms: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("flash")
    flash_with(directory, image("2.0.0")).mark(permanent=False)

    def boot_through() -> None:
        for power in (*cuts, None):
            with suppress(PowerCutError):
                Flash(directory, power=power).boot()
                return

    # Without a cut a boot is a swap, with one it goes on with it: what runs after it is the same.
    boot_through()
    flash = Flash(directory)
    assert versions(flash) == ["2.0.0", "1.0.0"]
    if confirms:
        flash.confirm()
    boot_through()
    assert versions(Flash(directory)) == (["2.0.0", "1.0.0"] if confirms else ["1.0.0", "2.0.0"])


@settings(max_examples=25, deadline=None)
@given(power=st.integers(0, SLOT_BYTES + 4 * SECTOR))
def test_a_cut_while_an_image_comes_leaves_what_runs(power: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    flash = flash_with(tmp_path_factory.mktemp("flash"), image("3.0.0"))
    flash.power = power
    try:
        flash.erase()
        for at in range(0, len(image("2.0.0")), 1000):
            flash.write(at, image("2.0.0")[at : at + 1000])
        flash.mark(permanent=False)
    except PowerCutError:
        flash.power = None
        assert boots(flash) == "1.0.0"
    else:
        flash.power = None
        assert boots(flash) == "2.0.0"
