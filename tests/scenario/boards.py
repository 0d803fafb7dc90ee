"""Devices that tests add."""

from __future__ import annotations

from scripts.demo.inventory import LeafBoard, Part

MODEL = "scd41"


def board(name: str, *, latency_milliseconds: int = 10, dated: bool = False) -> LeafBoard:
    """A device with a sensor that no other claim asks for."""
    part = Part(
        model=MODEL,
        manufacturer="Sensirion",
        accuracy={"Temperature": "0.8"},
        latency_milliseconds=latency_milliseconds,
        dated=dated,
    )
    return LeafBoard(name=name, board="Tester", bluetooth=False, parts=(part,))
