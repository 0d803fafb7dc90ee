"""A part of a node's devices: what one relay process serves."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32


@dataclass(frozen=True, slots=True)
class Partition:
    """The part `index` of `count`. A device belongs to one, whatever relay asks and however often it was restarted."""

    index: int = 0
    count: int = 1

    def has(self, device: str) -> bool:
        """Whether the LeafDevice of this name belongs to the part."""
        return crc32(device.encode()) % self.count == self.index

    def name(self, node: str) -> str:
        """What the part of a node is called where every part needs its own name."""
        return node if self.count == 1 else f"{node}.{self.index}"
