"""Events: one when something changes, for `kubectl describe`; never one a message."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import structlog

from crds.errors import EdgeError
from crds.kube.client import EVENTS, Kube
from crds.models.base import Resource

log = structlog.get_logger(__name__)


async def emit(
    kube: Kube,
    regarding: Resource,
    *,
    kind: Literal["Normal", "Warning"],
    reason: str,
    action: str,
    note: str,
    reporter: str,
) -> None:
    """Post an Event. Failing to do so is logged and harms nothing else."""
    meta = regarding.metadata
    namespace = meta.namespace or "default"
    body = {
        "apiVersion": EVENTS.api_version,
        "kind": "Event",
        "metadata": {"generateName": f"{meta.name[:200]}-", "namespace": namespace},
        "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": kind,
        "reason": reason,
        "action": action,
        "note": note[:1024],
        "reportingController": f"edge.fluidos.eu/{reporter}",
        "reportingInstance": reporter,
        "regarding": {
            "apiVersion": regarding.crd.api_version,
            "kind": regarding.crd.kind,
            "name": meta.name,
            "namespace": namespace,
            **({"uid": meta.uid} if meta.uid else {}),
        },
    }
    try:
        await kube.request("POST", EVENTS.path(namespace=namespace), body=body)
    except EdgeError as error:
        log.warning("event not posted", reason=reason, error=str(error))
