"""What images say of themselves, held against the tools that make them."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from smpclient.mcuboot import IMAGE_TLV, ImageInfo

from crds.boards import normalized
from crds.errors import InvalidField
from flash_controller.domain.images import Format, Image, read_image
from tests.flash_controller.firmware import esp_idf, mcuboot

HASHES = {"256": IMAGE_TLV.SHA256, "384": IMAGE_TLV.SHA384, "512": IMAGE_TLV.SHA512}


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return mcuboot(tmp_path_factory.mktemp("image"), version="1.2.3+4", counter=7, board="nrf52840dk")


def test_mcuboot_says_version_counter_and_board(counted: bytes) -> None:
    image = read_image(counted)
    assert (image.format, image.version, image.security_counter) == (Format.MCUBOOT, "1.2.3+4", 7)
    assert image.fits("nrf52840dk")
    assert not image.fits("nrf5340dk")
    assert not image.signed


@pytest.mark.parametrize("sha", sorted(HASHES))
def test_the_measurement_is_mcuboots_own_hash(sha: str, tmp_path: Path) -> None:
    # imgtool has SHA-384 for keys of P-384 alone.
    key = _signing(tmp_path, ec.SECP384R1()) if sha == "384" else ()
    data = mcuboot(tmp_path, options=("--sha", sha, *key))
    info = ImageInfo.load_file(str(tmp_path / "image.bin"))
    assert read_image(data).measurement == info.get_tlv(HASHES[sha]).value.hex()


def test_a_signed_image_says_so(tmp_path: Path) -> None:
    assert read_image(mcuboot(tmp_path, options=_signing(tmp_path, ec.SECP256R1()))).signed


def test_padding_after_an_image_is_not_measured(counted: bytes) -> None:
    assert read_image(counted + b"\xff" * 512) == read_image(counted)


def test_what_is_encrypted_cannot_be_measured(counted: bytes) -> None:
    flagged = counted[:16] + b"\x04\x00\x00\x00" + counted[20:]
    with pytest.raises(InvalidField, match=r"image\.header\.flags.*not encrypted"):
        read_image(flagged)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_changed_byte_passes(counted: bytes, data: st.DataObject) -> None:
    end = len(counted)
    at = data.draw(st.integers(4, end - 1))
    bit = data.draw(st.integers(0, 7))
    changed = bytearray(counted)
    changed[at] ^= 1 << bit
    # Whatever is not under the hash changes nothing that is.
    with suppress(InvalidField):
        assert read_image(bytes(changed)) == read_image(counted)


@settings(max_examples=60, deadline=None)
@given(end=st.integers(4, 2000))
def test_no_cut_image_passes(counted: bytes, end: int) -> None:
    with pytest.raises(InvalidField):
        read_image(counted[: min(end, len(counted) - 1)])


def test_esp_idf_says_chip_version_counter_and_project() -> None:
    image = read_image(esp_idf(counter=3, signed=True))
    assert (image.format, image.chip, image.version, image.application) == (
        Format.ESP_IDF,
        "esp32s3",
        "1.2.3",
        "thermo",
    )
    assert image.security_counter == 3
    assert image.signed


def test_esp_idf_is_measured_by_the_hash_at_its_end() -> None:
    image = esp_idf()
    assert read_image(image).measurement == image[-32:].hex()
    unhashed = esp_idf(hashed=False)
    assert read_image(unhashed).measurement == hashlib.sha256(unhashed).hexdigest()


def test_a_counter_that_nobody_set_is_none() -> None:
    assert read_image(esp_idf()).security_counter is None


@pytest.mark.parametrize(
    ("board", "fits"),
    [
        ("esp32s3", True),
        ("ESP32-S3", True),
        ("esp32s3r8", True),
        ("esp32", False),
        ("esp32c6", False),
        ("esp32s31", False),
        ("lilygo-t7", True),
    ],
)
def test_an_esp32_is_for_its_chip(board: str, *, fits: bool) -> None:
    assert read_image(esp_idf()).fits(board) is fits


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "at least one byte"),
        (esp_idf(chip=0x7777), r"image\.header\.chip"),
        (esp_idf()[:-1] + b"x", r"image\.sha256"),
        (esp_idf()[:-1], r"expected \d+ bytes"),
        (esp_idf()[:600], r"segments\[0\]"),
        (esp_idf(version="\n"), r"descriptor\.version"),
    ],
)
def test_a_damaged_image_is_refused_by_name(image: bytes, message: str) -> None:
    with pytest.raises(InvalidField, match=message):
        read_image(image)


def test_other_bytes_are_measured_whole() -> None:
    data = b"\x00\x20\x00\x20anything"
    assert read_image(data) == Image(format=Format.BINARY, measurement=hashlib.sha512(data).hexdigest())


def test_names_of_boards_are_compared_without_their_hyphens() -> None:
    assert normalized("ESP32-S3") == normalized("esp32_s3") == "esp32s3"


def _signing(folder: Path, curve: ec.EllipticCurve) -> tuple[str, ...]:
    key = ec.generate_private_key(curve)
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return ("--key", str(folder / "key.pem"))
