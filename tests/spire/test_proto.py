"""The code of our gRPC messages is what the compiler makes of them."""

from __future__ import annotations

from pathlib import Path

from spire.proto.generate import generate, stale


def test_generated_messages_fit_their_sources(tmp_path: Path) -> None:
    generate(tmp_path)
    assert stale(tmp_path) == []


def test_a_message_that_was_edited_or_left_over_is_named(tmp_path: Path) -> None:
    generate(tmp_path)
    folder = tmp_path / "spire" / "proto"
    (folder / "workload_pb2.py").write_text("edited")
    (folder / "more_pb2.py").write_text("")
    assert stale(tmp_path) == ["more_pb2.py", "workload_pb2.py"]
