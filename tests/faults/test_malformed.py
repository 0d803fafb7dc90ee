"""Packets of every type that are not MQTT end the connection that they came on, and nothing else."""

from __future__ import annotations

import socket
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from router_manager.relay.mqtt.packets import PINGREQ, Version, connect
from tests.faults.site import ROUNDS, site

CONNACK = b"\x20"


def test_a_malformed_packet_of_any_type_costs_its_own_connection_alone(tmp_path: Path) -> None:
    with site(tmp_path) as running:
        for kind in range(16):
            say_nonsense(kind, running.relay.port)
            running.moves(what=f"a delivery beside packets of type {kind}")
        assert running.relay.metric("fluidos_edge_relay_devices_malformed_total") > 0
        running.settle(faults=0)


def say_nonsense(kind: int, port: int) -> None:
    @given(
        flags=st.integers(0, 15),
        body=st.binary(max_size=80),
        length=st.none() | st.binary(min_size=1, max_size=5),
        version=st.none() | st.sampled_from(list(Version)),
    )
    @settings(max_examples=5 * ROUNDS, deadline=None)
    def check(flags: int, body: bytes, length: bytes | None, version: Version | None) -> None:
        packet = bytes([kind << 4 | flags]) + (bytes([len(body)]) if length is None else length) + body
        answer = exchange(port, packet, version)
        assert answer.startswith(CONNACK) or version is None

    check()


def exchange(port: int, packet: bytes, version: Version | None) -> bytes:
    """All that is answered to this and a PINGREQ until the relay closes; with a version, after an introduction."""
    hello = b""
    if version is not None:
        hello = connect(version=version, client_id="nonsense", clean_start=True, keep_alive_seconds=0)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        answer = b""
        try:
            connection.sendall(hello + packet + PINGREQ)
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(1 << 16):
                answer += data
        except (ConnectionResetError, BrokenPipeError):
            pass
        return answer
