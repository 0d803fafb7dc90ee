"""Programs in Go that the relay's benchmark needs: `gauge`, which is ours, and Telegraf; built once for this user."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from scripts.testbed.binaries import cache_folder
from scripts.testbed.build import Program, build

_PEERS = Path(__file__).parent / "peers"
_PLUGINS = ("inputs.mqtt_consumer", "outputs.http", "parsers.json", "serializers.json")
_GAUGE = Program("gauge", ".", _PEERS / "gauge", "5 s on two cores")
_TELEGRAF = Program(
    "telegraf",
    "github.com/influxdata/telegraf/cmd/telegraf",
    _PEERS / "telegraf",
    "2 min on two cores",
    ("-tags", ",".join(["custom", *_PLUGINS])),
)


def gauge() -> Path:
    """Publisher, subscriber, sink and posters (benchmarks/peers/gauge)."""
    return _built(_GAUGE)


def telegraf() -> Path:
    """Telegraf with the plug-ins that a bridge from MQTT to HTTP needs."""
    return _built(_TELEGRAF)


def _built(program: Program) -> Path:
    """Named by its sources, so that a change builds anew."""
    cache = cache_folder(os.environ)
    sources = b"".join(path.read_bytes() for path in sorted(program.module.iterdir()))
    digest = hashlib.sha256(sources + repr(program.arguments).encode()).hexdigest()
    folder = cache / "bin" / f"{program.name}-{digest[:12]}"
    build([program], folder=folder, cache=cache, environment=os.environ)
    return folder / program.name
