"""Which rights our accounts have, by deploy/rbac, and which they use, by the API servers' audit logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from crds.models.fluidos import FLUIDOS_NAMESPACE
from scripts.testbed.api import load
from scripts.testbed.manifests import ACCOUNTS

PREFIX = f"system:serviceaccount:{FLUIDOS_NAMESPACE}:"


class Right(NamedTuple):
    """One verb of one rule; `namespace` is empty where a ClusterRole grants it."""

    account: str
    namespace: str
    verb: str
    resource: str
    group: str

    def __str__(self) -> str:
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.account}: {self.verb} {self.resource}.{self.group or 'core'}{where}"


@dataclass(frozen=True, slots=True)
class Request:
    """One that an account of ours made."""

    account: str
    uri: str
    status: int
    namespace: str
    verb: str
    resource: str
    group: str

    def uses(self, right: Right) -> bool:
        """Whether it needed this right."""
        # Server-side apply of what was not there is a patch by name, and needs the right to create as well.
        verbs = (self.verb, "create") if self.verb == "patch" and self.status == 201 else (self.verb,)
        asked = (self.account, self.resource, self.group)
        allowed = (right.account, right.resource, right.group)
        return asked == allowed and right.verb in verbs and right.namespace in ("", self.namespace)


def granted() -> list[Right]:
    """All rights of all accounts."""
    documents = load(ACCOUNTS)
    rules = {(each["kind"], each["metadata"]["name"]): each["rules"] for each in documents if "rules" in each}
    return [
        Right(subject["name"], binding["metadata"].get("namespace", ""), verb, resource, group)
        for binding in documents
        if "roleRef" in binding
        for subject in binding["subjects"]
        for rule in rules[binding["roleRef"]["kind"], binding["roleRef"]["name"]]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def requests(log: Path, *, start: int = 0) -> Iterator[Request]:
    """What our accounts asked since the log had so many bytes."""
    with log.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):  # the last one may still be on its way
                event = json.loads(line)
                if event["user"]["username"].startswith(PREFIX):
                    yield _request(event)


def _request(event: dict[str, Any]) -> Request:
    ref = event.get("objectRef", {})
    parts = [ref.get("resource", ""), *([ref["subresource"]] if "subresource" in ref else [])]
    return Request(
        account=event["user"]["username"].removeprefix(PREFIX),
        uri=event["requestURI"],
        status=event.get("responseStatus", {}).get("code", 0),
        namespace=ref.get("namespace", ""),
        verb=event["verb"],
        resource="/".join(parts),
        group=ref.get("apiGroup", ""),
    )
