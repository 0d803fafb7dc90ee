"""Names of boards, which people and tools spell differently."""

from __future__ import annotations


def normalized(board: str) -> str:
    """A board's name as names are compared: `ESP32-S3` and `esp32_s3` are `esp32s3`."""
    return board.lower().replace("-", "").replace("_", "")
