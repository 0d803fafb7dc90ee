"""What becomes of images and a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from crds.errors import InvalidField, Terminal
from flash_controller.domain.composition import Built, Layout, compose
from flash_controller.domain.manifests import Index, manifest_of, parse
from flash_controller.domain.recipe import Recipe
from flash_controller.packaging.inspection import package_of
from flash_controller.packaging.layout import load, save
from tests.flash_controller.firmware import esp_idf, mcuboot

SENSOR = {
    "uid": "1",
    "model": "hts221",
    "measurements": [{"type": "Humidity", "unit": "%"}],
    "topic": "sensor/{device}/{sensor}",
}


def recipe(*boards: str, **said: Any) -> Recipe:
    text = {"application": "thermo", "boards": {board: {"image": "x.bin"} for board in boards}, **said}
    return Recipe.parse_yaml(orjson.dumps(text).decode(), field="firmware.yaml")


def composed(images: dict[str, bytes], **said: Any) -> Layout:
    return compose(recipe(*images, **said), {board: Built("x.bin", image) for board, image in images.items()})


def test_an_index_says_what_each_board_will_measure() -> None:
    image = esp_idf(counter=4)
    (part,) = package_of(composed({"esp32-s3": image})).parts
    assert part.facts.measurement == image[-32:].hex()
    assert (part.facts.version, part.facts.security_counter, part.facts.format) == ("1.2.3", 4, "ESPIDF")


def test_an_index_has_its_sensors_and_annotations() -> None:
    source = {"org.opencontainers.image.source": "https://example.com/thermo"}
    layout = composed({"b": b"x"}, version="1.0.0", sensors=[SENSOR], annotations=source)
    index = parse(layout.blobs[layout.index.digest])
    assert source.items() <= (index.annotations or {}).items()
    assert [sensor.topic for sensor in package_of(layout).sensors] == ["sensor/{device}/{sensor}"]


def test_the_same_input_has_the_same_digest() -> None:
    images = {"esp32s3": esp_idf(), "nrf52840dk": b"code"}
    assert composed(images, version="1.2.3") == composed(images, version="1.2.3")
    assert composed(images, version="1.2.3").index.digest != composed(images, version="1.2.3-rc.1").index.digest


def test_bills_of_materials_refer_to_what_they_are_about() -> None:
    spdx = orjson.dumps({"spdxVersion": "SPDX-2.3"})
    layout = compose(recipe("b", version="1.0.0"), {"b": Built("x.bin", b"code", spdx)})
    index = parse(layout.blobs[layout.index.digest])
    assert isinstance(index, Index)
    bills = [manifest_of(layout.blobs[each.digest]) for each in layout.referrers]
    subjects = [bill.subject and bill.subject.digest for bill in bills]
    assert subjects == [layout.index.digest, index.manifests[0].digest]
    assert [bill.artifact_type for bill in bills] == ["application/vnd.cyclonedx+json", "application/spdx+json"]
    ours = orjson.loads(layout.blobs[bills[0].layers[0].digest])
    assert (ours["bomFormat"], [each["name"] for each in ours["components"]]) == ("CycloneDX", ["thermo/b"])


@pytest.mark.parametrize(
    ("board", "said", "message"),
    [
        ("esp32c6", {}, r"boards\[esp32c6\]\.image: 'esp32s3' is not valid, expected an image for esp32c6"),
        ("esp32s3", {"version": "1.2.4"}, r"boards\[esp32s3\]\.image\.version: '1\.2\.3'"),
        ("esp32s3", {"securityCounter": 5}, r"boards\[esp32s3\]\.image\.securityCounter: 4"),
        ("esp32s3", {"annotations": {"eu.fluidos.edge.firmware.measurement": "ab"}}, "annotations"),
    ],
)
def test_an_image_that_is_not_what_the_recipe_says_is_refused(board: str, said: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidField, match=message):
        composed({board: esp_idf(counter=4)}, **said)


def test_the_image_of_another_board_of_the_maker_is_refused(tmp_path: Path) -> None:
    image = mcuboot(tmp_path, board="nrf52840dk")
    composed({"nrf52840dk": image})
    with pytest.raises(InvalidField, match="expected an image for nrf5340dk"):
        composed({"nrf5340dk": image})


@pytest.mark.parametrize("version", ["1.2.3-rc.1", "1.2.3+g5e1f", "v1.2.3"])
def test_a_header_need_not_say_more_than_the_release(version: str) -> None:
    assert package_of(composed({"esp32s3": esp_idf()}, version=version)).facts.version == version


def test_boards_of_different_versions_are_no_package() -> None:
    with pytest.raises(InvalidField, match=r"the images say 1\.2\.3, 2\.0\.0"):
        composed({"esp32s3": esp_idf(), "esp32c6": esp_idf(chip=13, version="2.0.0")})


def test_images_without_headers_need_a_version() -> None:
    with pytest.raises(InvalidField, match="version: None is not valid, expected a value, for the images say nothing"):
        composed({"a": b"x", "b": b"y"})


def test_two_spellings_of_a_board_are_refused() -> None:
    with pytest.raises(InvalidField, match="one manifest for each board"):
        composed({"esp32s3": esp_idf(), "esp32-s3": esp_idf()})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"application": "a b"}, r"firmware\.yaml\.application"),
        ({"boards": {}}, r"firmware\.yaml\.boards"),
        ({"boards": {"a/b": {"image": "x"}}}, r"firmware\.yaml\.boards"),
        ({"boards": {"a": {}}}, r"firmware\.yaml\.boards\.a\.image.*required"),
        ({"securityCounter": -1}, r"firmware\.yaml\.securityCounter"),
        ({"sensors": [{"uid": "1"}]}, r"firmware\.yaml\.sensors\[0\]"),
        ({"vesion": "1"}, r"firmware\.yaml\.vesion.*a key that is known"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(said: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidField, match=message):
        recipe("b", **said)


def test_a_layout_comes_back_from_its_folder(tmp_path: Path) -> None:
    layout = composed({"esp32s3": esp_idf()})
    save(layout, tmp_path)
    assert load(tmp_path) == layout


def test_a_layout_that_was_changed_is_refused(tmp_path: Path) -> None:
    layout = composed({"esp32s3": esp_idf()})
    save(layout, tmp_path)
    image = package_of(layout).parts[0].blob.digest
    (tmp_path / "blobs" / image.replace(":", "/")).write_bytes(b"something else")
    with pytest.raises(Terminal, match=image) as refusal:
        load(tmp_path)
    assert refusal.value.reason == "DigestMismatch"


def test_a_folder_that_is_no_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidField, match="an OCI image layout"):
        load(tmp_path)
