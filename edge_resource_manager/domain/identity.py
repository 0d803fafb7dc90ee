"""Who this node is, as FLUIDOS' ConfigMap `fluidos-node-identity` says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crds.errors import InvalidField
from crds.models.fluidos import NodeIdentity


def parse_identity(config_map: Mapping[str, Any]) -> NodeIdentity:
    """Read the ConfigMap, whose `ip` is the host alone.

    Raises:
        InvalidField: a key is missing.
    """
    data = config_map.get("data") or {}
    for key in ("domain", "nodeID", "ip"):
        if not data.get(key):
            raise InvalidField(field=f"data.{key}", value=data.get(key), expected="a value, it is required")
    ip, port = data["ip"], data.get("port")
    return NodeIdentity(domain=data["domain"], node_id=data["nodeID"], ip=f"{ip}:{port}" if port else ip)
