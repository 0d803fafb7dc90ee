"""What the flash controller reads of registries and of images, for a fuzzer."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

from flash_controller.domain.images import read_image
from flash_controller.domain.layers import unpack
from flash_controller.domain.manifests import INDEX, TAR, Index, Manifest, describe, parse, serialized
from flash_controller.domain.packages import SENSORS, Facts, sensors_of
from flash_controller.domain.versions import Range
from flash_controller.oci.credentials import Credentials
from tests.flash_controller.firmware import esp_idf
from tests.flash_controller.test_packages import tarred


def targets() -> dict[str, tuple[Callable[[bytes], object], tuple[bytes, ...]]]:
    """By name, what takes the bytes and good input to start from."""
    manifest = Manifest(config=describe(b"{}", "x"), layers=(describe(b"x", "x"),))
    said = Facts(application="thermo", version="1.2.3", security_counter=1).annotations() | {SENSORS: "[]"}
    index = serialized(Index(manifests=(describe(serialized(manifest), INDEX),), annotations=said))
    return {
        "credentials": (Credentials.parse, (b'{"auths":{"r":{"auth":"YTpi"}}}',)),
        "image": (read_image, (_mcuboot(), esp_idf())),
        "layer": (lambda data: unpack(data, next(iter(TAR))), (tarred("firmware/x"),)),
        "manifest": (_manifest, (index, serialized(manifest))),
        "version_range": (lambda data: Range.parse(data.decode("utf-8", "replace")), (b">=1.2 <2 || ~3.1.x",)),
    }


def _manifest(data: bytes) -> None:
    document = parse(data)
    said = document.annotations or {}
    Facts.read(said)
    sensors_of(said)
    if isinstance(document, Index):
        document.boards()
    else:
        document.image()


def _mcuboot() -> bytes:
    protected = struct.pack("<HHHHI", 0x6908, 12, 0x50, 4, 7)
    image = struct.pack("<IIHHIIBBHI4x", 0x96F3B83D, 0, 32, len(protected), 4, 0, 1, 2, 3, 4) + b"code" + protected
    return image + struct.pack("<HHHH", 0x6907, 40, 0x10, 32) + hashlib.sha256(image).digest()
