"""Indexes, manifests and layers as strangers write them."""

from __future__ import annotations

import gzip
import io
import tarfile
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.errors import InvalidField, Terminal
from flash_controller.domain.images import Format, Image
from flash_controller.domain.layers import unpack
from flash_controller.domain.manifests import MAX_IMAGE, Index, Manifest, manifest_of, parse
from flash_controller.domain.packages import PREFIX, Facts, part_of, sensors_of

DIGEST = "sha256:" + "0" * 64
DOCKER_TAR = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def entry(architecture: str = "esp32s3", os: str = "custom", **said: Any) -> dict[str, Any]:
    platform = {"os": os, "architecture": architecture}
    return {"mediaType": "x", "digest": DIGEST, "size": 1, "platform": platform, **said}


def index(*entries: dict[str, Any], **said: Any) -> Index:
    found = parse(orjson.dumps({"schemaVersion": 2, "manifests": entries, **said}))
    assert isinstance(found, Index)
    return found


def manifest(*sizes: int, **said: Any) -> Manifest:
    layers = [{"mediaType": "x", "digest": DIGEST, "size": size} for size in sizes]
    config = {"mediaType": "x", "digest": DIGEST, "size": 2}
    return manifest_of(orjson.dumps({"schemaVersion": 2, "config": config, "layers": layers, **said}))


def tarred(*names: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.size = 0 if name.endswith("/") else len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return file.getvalue()


def linked(kind: bytes, target: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        member = tarfile.TarInfo("firmware/x")
        member.type, member.linkname = kind, target
        tar.addfile(member)
    return file.getvalue()


def sized(size: int, *, sparse: bool = False) -> bytes:
    """A tar of one file that says to be so large; a sparse one (GNU tar's `--sparse`) is all hole."""
    header = bytearray(tarfile.TarInfo("firmware/x").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE if sparse else tarfile.REGTYPE
    for at, number in ((386, 0), (398, 0), (483, size)) if sparse else ((124, size),):
        header[at : at + 12] = b"\x80" + number.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


@pytest.mark.parametrize("board", ["esp32s3", "ESP32-S3", "esp32_s3"])
def test_a_board_is_found_by_any_spelling(board: str) -> None:
    assert index(entry("esp32c6"), entry("esp32-s3")).manifest_for(board).platform is not None


def test_what_is_no_firmware_in_an_index_is_left_aside() -> None:
    builders = entry("unknown", os="unknown")
    assert list(index(entry(), builders, {"mediaType": "x", "digest": DIGEST, "size": 1}).boards()) == ["esp32s3"]


def test_a_board_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(Terminal, match="for board nrf52840dk, only for: esp32s3, esp32c6") as refusal:
        index(entry("esp32s3"), entry("esp32c6")).manifest_for("nrf52840dk")
    assert refusal.value.reason == "NoSuchBoard"


def test_a_board_that_is_there_twice_is_refused() -> None:
    with pytest.raises(InvalidField, match="one manifest for each board"):
        index(entry("esp32s3"), entry("ESP32-S3")).boards()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected JSON"),
        (b"[]", "a JSON object"),
        (b'{"schemaVersion":2}', "either manifests"),
        (b'{"schemaVersion":2,"manifests":[],"layers":[]}', "either manifests"),
        (b'{"schemaVersion":1,"manifests":[]}', "schemaVersion"),
        (b'{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"md5:1","size":1}]}', r"manifests\[0\]\.digest"),
        (b'{"schemaVersion":2,"manifests":[{"mediaType":"x","size":1}]}', r"manifests\[0\]\.digest.*required"),
    ],
)
def test_what_is_no_manifest_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(InvalidField, match=message) as refusal:
        parse(data)
    assert refusal.value.reason == "InvalidManifest"


@pytest.mark.parametrize("sizes", [(), (1, 1), (0,), (2**40,)])
def test_a_manifest_has_one_layer_of_the_size_of_an_image(sizes: tuple[int, ...]) -> None:
    with pytest.raises(InvalidField, match=r"manifest\.layers"):
        manifest(*sizes).image()


def test_what_is_said_of_a_board_counts_more_than_what_is_said_of_all() -> None:
    whole = index(entry(), annotations={PREFIX + "version": "1.0.0", PREFIX + "security-counter": "1"})
    own = entry(annotations={PREFIX + "security-counter": "2"})
    part = part_of(board="b", entry=index(own).manifests[0], manifest=manifest(1), index=whole)
    assert part.facts == Facts(version="1.0.0", security_counter=2)


def test_an_index_that_contradicts_itself_is_refused() -> None:
    whole = index(entry(), annotations={PREFIX + "application": "thermo"})
    own = index(entry(annotations={PREFIX + "application": "camera"})).manifests[0]
    with pytest.raises(Terminal, match="camera, the index thermo"):
        part_of(board="b", entry=own, manifest=manifest(1), index=whole)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("application", "a b"),
        ("application", "a/../b"),
        ("version", ""),
        ("security-counter", "-1"),
        ("security-counter", "01"),
        ("format", "ELF"),
        ("measurement", "AB" * 32),
        ("measurement", "ab" * 31),
    ],
)
def test_a_wrong_annotation_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(InvalidField, match=PREFIX + key):
        Facts.read({PREFIX + key: value})


def test_facts_come_back_from_their_annotations() -> None:
    facts = Facts(application="a", version="1+2", security_counter=0, format=Format.BINARY, measurement="ab" * 64)
    assert Facts.read(facts.annotations()) == facts


def test_a_standard_version_counts_where_there_is_no_other() -> None:
    assert Facts.read({"org.opencontainers.image.version": "0.2.0"}).version == "0.2.0"


def test_an_image_is_held_to_what_is_said_of_it() -> None:
    image = Image(format=Format.BINARY, measurement="ab" * 64, security_counter=1)
    Facts(measurement="ab" * 64, security_counter=1).check(image)
    with pytest.raises(Terminal, match=r"measurement of the image is abab.*the index says cdcd"):
        Facts(measurement="cd" * 64).check(image)
    with pytest.raises(Terminal, match="security counter of the image is 1, the index says 2"):
        Facts(security_counter=2).check(image)


@pytest.mark.parametrize("text", ["{", "{}", '[{"uid": "1"}]'])
def test_wrong_sensors_are_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidField, match=PREFIX + "sensors"):
        sensors_of({PREFIX + "sensors": text})


def test_an_image_is_taken_out_of_a_tar_of_a_container_builder() -> None:
    layer = gzip.compress(tarred("etc/firmware.conf", "firmware/", "firmware/ota.bin", "firmware/z.bin"))
    assert unpack(layer, DOCKER_TAR) == b"firmware/ota.bin"


@pytest.mark.parametrize(
    ("layer", "media_type", "message"),
    [
        (b"not gzip", DOCKER_TAR, "gzip"),
        (gzip.compress(tarred("firmware/x"))[:-9], DOCKER_TAR, "gzip"),
        (gzip.compress(b"no tar"), DOCKER_TAR, "a tar"),
        (gzip.compress(tarred("bin/sh")), DOCKER_TAR, "a file below firmware/"),
        (gzip.compress(linked(tarfile.SYMTYPE, "/etc/passwd")), DOCKER_TAR, "a file below firmware/"),
        (gzip.compress(linked(tarfile.SYMTYPE, "x")), DOCKER_TAR, "a file below firmware/"),
        (gzip.compress(linked(tarfile.LNKTYPE, "../firmware/x")), DOCKER_TAR, "a file below firmware/"),
        (gzip.compress(sized(2**40, sparse=True)), DOCKER_TAR, "at most"),
        (gzip.compress(sized(2**80)), DOCKER_TAR, "a tar|at most"),
        (gzip.compress(bytes(65 * 2**20), 1), DOCKER_TAR, "at most"),
        (b"", "application/vnd.oci.image.layer.v1.tar+zstd", "mediaType"),
    ],
)
def test_a_layer_that_cannot_be_unpacked_is_refused(layer: bytes, media_type: str, message: str) -> None:
    with pytest.raises(InvalidField, match=message):
        unpack(layer, media_type)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 2047), value=st.binary(min_size=1, max_size=16))
def test_no_tar_however_broken_is_more_than_refused(at: int, value: bytes) -> None:
    tar = bytearray(tarred("firmware/ota.bin", "firmware/z.bin"))
    tar[at : at + len(value)] = value
    with suppress(InvalidField):
        assert len(unpack(bytes(tar), "application/vnd.oci.image.layer.v1.tar")) <= MAX_IMAGE
