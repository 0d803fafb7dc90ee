"""What a buyer may do with a flavor, by the provider's policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from crds.models.buyers import ANY, BUYERS_CONFIG_MAP, BUYERS_KEY, BuyersPolicy
from crds.selector import Device, Matched, Selector, compile_selector
from spire.domain.spiffe_id import TrustDomain


class May(IntEnum):
    """What is granted; each includes those before it."""

    NOTHING = 0
    SEE = 1
    BUY = 2


@dataclass(frozen=True, slots=True)
class _Grant:
    trust_domains: frozenset[str]
    selector: Selector | None
    may: May

    def covers(self, trust_domain: TrustDomain, device: Device | None) -> bool:
        if not self.trust_domains & {ANY, trust_domain.name}:
            return False
        if self.selector is None:
            return True
        return device is not None and isinstance(self.selector.match(device), Matched)


@dataclass(frozen=True, slots=True)
class Buyers:
    """A policy, compiled."""

    grants: tuple[_Grant, ...]

    @classmethod
    def of(cls, policy: BuyersPolicy) -> Buyers:
        """Compile a policy; the most generous grants come first, so that the first one that covers is the answer.

        Raises:
            InvalidField: a selector is no boolean CEL expression.
        """
        grants = [
            _Grant(
                trust_domains=frozenset(rule.trust_domains),
                selector=compile_selector(rule.selector, field=f"rules[{index}].selector") if rule.selector else None,
                may=May[rule.may.upper()],
            )
            for index, rule in enumerate(policy.grants)
        ]
        return cls(tuple(sorted(grants, key=lambda grant: (-grant.may, grant.selector is not None))))

    def may(self, trust_domain: TrustDomain, device: Device | None) -> May:
        """What a trust domain may do with a flavor.

        Args:
            trust_domain: of the buyer.
            device: what selectors see of the flavor; None for one that is no sensor, which no selector covers.
        """
        return next((grant.may for grant in self.grants if grant.covers(trust_domain, device)), May.NOTHING)


EVERYBODY = Buyers((_Grant(frozenset({ANY}), None, May.BUY),))
"""Where there is no policy: to be federated is the permission."""

NOBODY = Buyers(())


def parse_buyers(config_map: Mapping[str, Any]) -> Buyers:
    """Read the ConfigMap `fluidos-edge-buyers`.

    Raises:
        InvalidField: names the field.
    """
    text = (config_map.get("data") or {}).get(BUYERS_KEY, "")
    return Buyers.of(BuyersPolicy.parse_yaml(text, field=f"ConfigMap {BUYERS_CONFIG_MAP}, {BUYERS_KEY}"))
