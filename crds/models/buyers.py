"""Which other clusters may see and buy which flavors: `policy.yaml` of the ConfigMap `fluidos-edge-buyers`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from crds.models.dataroute import Selector
from crds.models.written import Written

BUYERS_CONFIG_MAP = "fluidos-edge-buyers"
BUYERS_KEY = "policy.yaml"
ANY = "*"


class BuyerRule(Written):
    """A grant. What no rule grants is refused."""

    trust_domains: Annotated[
        tuple[Annotated[str, Field(pattern=r"^(\*|[a-z0-9._-]{1,255})$")], ...], Field(min_length=1, max_length=256)
    ]
    """Of the buyers; `*` is every one that is known here."""
    selector: Selector | None = None
    """CEL over `device`, as in a SensorClaim; without it all flavors, also those that are no sensors."""
    may: Literal["See", "Buy"]
    """Who may buy a flavor may see it."""


class BuyersPolicy(Written):
    """All grants."""

    grants: Annotated[tuple[BuyerRule, ...], Field(alias="rules", max_length=256)]
