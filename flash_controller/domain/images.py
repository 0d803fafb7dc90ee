"""What an image says of itself, and what its board's boot layer will measure of it.

Everything that is written into a device passes here first, at packaging and again right before the flash. An image
states its own hash; it is computed again here and a wrong one refused, so that a measurement is never just believed.

Formats: MCUboot (docs/design.md of mcu-tools/mcuboot), ESP-IDF (esp_app_format.h, esp_app_desc.h), else bytes as they
are.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple
from uuid import UUID, uuid5

from crds.boards import normalized
from crds.errors import InvalidField
from flash_controller.reasons import PackageReason


class Format(StrEnum):
    """How an image is laid out, by which its boot layer knows how to measure it."""

    MCUBOOT = "MCUboot"
    ESP_IDF = "ESPIDF"
    BINARY = "Binary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What an image says of itself.

    Attributes:
        format: how it is laid out.
        measurement: lower-case hex of what its boot layer will measure: MCUboot's image hash (32, 48 or 64 bytes), the
            SHA-256 that ends an ESP-IDF image, else the SHA-512 of all bytes.
        version: as its header has it, `1.2.3+4`; None where the format has none.
        security_counter: what anti-rollback compares; None where it says nothing.
        application: its project's name; None where the format has none.
        chip: the part that it is made for, `esp32s3`; None where the format does not say.
        vendor_id: MCUboot's vendor UUID.
        class_id: MCUboot's image class UUID, of the board's name: `imgtool sign --vid <domain> --cid <board>`.
        signed: its boot layer is given a signature to verify.
    """

    format: Format
    measurement: str
    version: str | None = None
    security_counter: int | None = None
    application: str | None = None
    chip: str | None = None
    vendor_id: UUID | None = None
    class_id: UUID | None = None
    signed: bool = False

    def fits(self, board: str) -> bool:
        """Whether nothing in the image speaks against a board, by the name that the index gives it.

        An ESP32's board is its chip, or its chip with its memory (`esp32s3r8`); its header tells nothing of others.
        """
        if self.vendor_id is not None and self.class_id is not None:
            return self.class_id in {uuid5(self.vendor_id, name) for name in (board, normalized(board))}
        name = normalized(board)
        if self.chip is None or not name.startswith("esp32"):
            return True
        memory = name.removeprefix(self.chip)
        return name.startswith(self.chip) and (not memory or (memory[0] == "r" and memory[1:].isdigit()))


def read_image(data: bytes) -> Image:
    """Reads an image.

    Raises:
        InvalidField: it is empty, begins as a known format and is not, or its own hash is not its hash.
    """
    if not data:
        raise _invalid("", data, "at least one byte")
    if data[:4] == _MCUBOOT_MAGIC:
        return _read_mcuboot(data)
    if data[0] == _ESP_MAGIC and data[_ESP_HEADER.size + _ESP_SEGMENT.size :].startswith(_ESP_DESCRIPTOR_MAGIC):
        return _read_esp(data)
    return Image(format=Format.BINARY, measurement=hashlib.sha512(data).hexdigest())


def _invalid(field: str, value: object, expected: str) -> InvalidField:
    return InvalidField(
        field=f"image.{field}".rstrip("."), value=value, expected=expected, reason=PackageReason.INVALID_IMAGE
    )


def _same(field: str, stated: bytes, computed: bytes) -> None:
    if not hmac.compare_digest(stated, computed):
        raise _invalid(field, stated.hex(), f"{computed.hex()}, which its bytes have")


# ---- MCUboot, little endian

_MCUBOOT_MAGIC = bytes.fromhex("3db8f396")
_MCUBOOT_HEADER = struct.Struct("<8xHHIIBBHI4x")
_TLV_INFO, _TLV = struct.Struct("<HH"), struct.Struct("<HH")
_PROTECTED, _UNPROTECTED = 0x6908, 0x6907
_ENCRYPTED = 0x04 | 0x08


class _Tlv(IntEnum):
    SHA256 = 0x10
    SHA384 = 0x11
    SHA512 = 0x12
    RSA2048 = 0x20
    ECDSA = 0x22
    RSA3072 = 0x23
    ED25519 = 0x24
    SECURITY_COUNTER = 0x50
    VENDOR_ID = 0x74
    CLASS_ID = 0x75


_HASHES = {_Tlv.SHA256: "sha256", _Tlv.SHA384: "sha384", _Tlv.SHA512: "sha512"}
_SIGNATURES = {_Tlv.RSA2048, _Tlv.ECDSA, _Tlv.RSA3072, _Tlv.ED25519}


def _read_mcuboot(data: bytes) -> Image:
    if len(data) < _MCUBOOT_HEADER.size:
        raise _invalid("header", f"{len(data)} bytes", f"{_MCUBOOT_HEADER.size} bytes")
    header = _MCUBOOT_HEADER.unpack_from(data)
    header_size, protected_size, body_size, flags, major, minor, revision, build = header
    if header_size < _MCUBOOT_HEADER.size:
        raise _invalid("header.size", header_size, f"at least {_MCUBOOT_HEADER.size}")
    if flags & _ENCRYPTED:
        # Its hash is that of the plain bytes, which the device alone can see.
        raise _invalid("header.flags", hex(flags), "an image that is not encrypted, for it cannot be measured")
    end = header_size + body_size
    protected = _tlvs(data, at=end, magic=_PROTECTED) if protected_size else _Area({}, end)
    if protected.end != end + protected_size:
        raise _invalid("header.protectedSize", protected_size, f"{protected.end - end}, the size of the protected TLVs")
    unprotected = _tlvs(data, at=protected.end, magic=_UNPROTECTED).values
    hashes = {name: unprotected[kind] for kind, name in _HASHES.items() if kind in unprotected}
    if len(hashes) != 1:
        raise _invalid("tlv.hash", sorted(hashes), "one of sha256, sha384 and sha512")
    ((name, stated),) = hashes.items()
    _same(f"tlv.{name}", stated, hashlib.new(name, data[: protected.end]).digest())
    # MCUboot itself takes these from the protected area alone: the others are not under the hash.
    counter = protected.values.get(_Tlv.SECURITY_COUNTER)
    return Image(
        format=Format.MCUBOOT,
        measurement=stated.hex(),
        version=f"{major}.{minor}.{revision}" + (f"+{build}" if build else ""),
        security_counter=None if counter is None else int.from_bytes(_sized("securityCounter", counter, 4), "little"),
        vendor_id=_uuid("vendorID", protected.values.get(_Tlv.VENDOR_ID)),
        class_id=_uuid("classID", protected.values.get(_Tlv.CLASS_ID)),
        signed=not _SIGNATURES.isdisjoint(unprotected),
    )


class _Area(NamedTuple):
    values: dict[int, bytes]
    end: int


def _tlvs(data: bytes, *, at: int, magic: int) -> _Area:
    """The types, lengths and values of one area; the first counts of those that come twice, as for MCUboot."""
    if len(data) < at + _TLV_INFO.size:
        raise _invalid("", f"{len(data)} bytes", f"a TLV area at byte {at}")
    found, size = _TLV_INFO.unpack_from(data, at)
    end = at + size
    if found != magic or size < _TLV_INFO.size or end > len(data):
        raise _invalid(
            "tlv.info", f"magic {found:#x}, {size} bytes at byte {at}", f"magic {magic:#x} and all its bytes"
        )
    values: dict[int, bytes] = {}
    position = at + _TLV_INFO.size
    while position < end:
        if position + _TLV.size > end:
            raise _invalid("tlv", f"{end - position} bytes at byte {position}", f"{_TLV.size} bytes")
        kind, length = _TLV.unpack_from(data, position)
        position += _TLV.size + length
        if position > end:
            raise _invalid("tlv.length", length, f"at most {length - (position - end)} bytes for type {kind:#x}")
        values.setdefault(kind, data[position - length : position])
    return _Area(values, end)


def _sized(field: str, value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise _invalid(f"tlv.{field}", value.hex(), f"{size} bytes")
    return value


def _uuid(field: str, value: bytes | None) -> UUID | None:
    return None if value is None else UUID(bytes=_sized(field, value, 16))


# ---- ESP-IDF, little endian

_ESP_MAGIC = 0xE9
_ESP_HEADER = struct.Struct("<BB10xHxxxxxxxxxB")
"""magic, number of segments, chip, whether a hash is appended."""
_ESP_SEGMENT = struct.Struct("<4xI")
_ESP_DESCRIPTOR = struct.Struct("<4sI8x32s32s")
"""magic, security counter, version, project."""
_ESP_DESCRIPTOR_MAGIC = bytes.fromhex("3254cdab")
_ESP_SIGNATURE_BLOCK = b"\xe7\x02"
_ESP_SECTOR = 4096
_ESP_CHIPS = {
    0x00: "esp32",
    0x02: "esp32s2",
    0x05: "esp32c3",
    0x09: "esp32s3",
    0x0C: "esp32c2",
    0x0D: "esp32c6",
    0x10: "esp32h2",
    0x12: "esp32p4",
    0x14: "esp32c61",
    0x17: "esp32c5",
}


def _read_esp(data: bytes) -> Image:
    _, segments, chip, appended = _ESP_HEADER.unpack_from(data)
    if chip not in _ESP_CHIPS:
        raise _invalid("header.chip", hex(chip), "one of " + ", ".join(_ESP_CHIPS.values()))
    contents = tuple(_segments(data, segments))
    used = _ESP_HEADER.size + sum(_ESP_SEGMENT.size + len(content) for content in contents)
    # A checksum follows, as the last byte of a block of 16.
    end = (used // 16 + 1) * 16
    hash_end = end + (hashlib.sha256().digest_size if appended else 0)
    if len(data) < hash_end:
        raise _invalid("", f"{len(data)} bytes", f"{hash_end} bytes")
    digest = hashlib.sha256(data[:end]).digest()
    if appended:
        _same("sha256", data[end:hash_end], digest)
    if not contents or len(contents[0]) < _ESP_DESCRIPTOR.size:
        raise _invalid("segments", len(contents), f"a first segment of at least {_ESP_DESCRIPTOR.size} bytes")
    _, counter, version, project = _ESP_DESCRIPTOR.unpack_from(contents[0])
    return Image(
        format=Format.ESP_IDF,
        measurement=digest.hex(),
        version=_text("version", version) or None,
        # 0 is what those have who do not use it.
        security_counter=counter or None,
        application=_text("project", project) or None,
        chip=_ESP_CHIPS[chip],
        signed=data[-(-hash_end // _ESP_SECTOR) * _ESP_SECTOR :].startswith(_ESP_SIGNATURE_BLOCK),
    )


def _segments(data: bytes, count: int) -> Iterator[bytes]:
    at = _ESP_HEADER.size
    for number in range(count):
        end = at + _ESP_SEGMENT.size
        if end <= len(data):
            end += _ESP_SEGMENT.unpack_from(data, at)[0]
        if end > len(data):
            raise _invalid(f"segments[{number}]", f"{len(data) - at} bytes at byte {at}", f"{end - at} bytes")
        yield data[at + _ESP_SEGMENT.size : end]
        at = end


def _text(field: str, value: bytes) -> str:
    text = value.partition(b"\0")[0]
    if not text.isascii() or not text.decode().isprintable():
        raise _invalid(f"descriptor.{field}", text, "printable ASCII")
    return text.decode()
