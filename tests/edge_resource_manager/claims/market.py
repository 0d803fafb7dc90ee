"""A simulated market: providers as far as one claim can tell, on which decisions are carried out."""

from dataclasses import dataclass, field
from typing import Any, Literal

from crds.models.sensorclaim import Binding
from edge_resource_manager.domain.claims import Ended, Offered, Plan, Silent, Situation, Standing, decide
from edge_resource_manager.domain.matching import Candidate, Need
from edge_resource_manager.domain.promises import Windows
from tests.edge_resource_manager.claims.samples import NOW, spec

NEED = Need.of(spec(sensor={"type": "Humidity"}, latency_microseconds={"less_than": 16_000}))
Count = int | Literal["All"]


def binding(flavor: str = "flavor-1", *, contract: bool = True, **changed: Any) -> Binding:
    return Binding(
        **{
            "flavor": flavor,
            "provider": "provider-1",
            "provider_address": "192.0.2.1:3004",
            "contract": f"contract-{flavor}" if contract else "",
            "transaction": flavor if contract else "",
            "configuration_digest": "d1",
            **changed,
        }
    )


@dataclass
class Market:
    """Providers, as far as one claim can tell: what is listed, what is held for the claim, who refuses or is silent."""

    offers: dict[str, Candidate] = field(default_factory=dict)
    sold_out: set[str] = field(default_factory=set)
    silent: dict[str, str] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    bindings: dict[str, Binding] = field(default_factory=dict)
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    most_bought: int = 0

    def situation(self, count: Count, *, need: Need = NEED, digest: str = "d1") -> Situation:
        answering = tuple(each for each in self.offers.values() if each.provider not in self.silent)
        return Situation(
            need=need,
            count=count,
            digest=digest,
            bindings=tuple(self.bindings.values()),
            standings={each.flavor: self._standing(each) for each in self.bindings.values()},
            candidates=answering,
            providers=3,
            silent=self.silent,
            refused=self.refused,
            unconfigured={},
            unreleased={},
            windows=Windows(),
            now=NOW,
        )

    def _standing(self, held: Binding) -> Standing:
        if held.provider in self.silent:
            return Silent(self.silent[held.provider], lost=held.provider in self.lost)
        offer = self.offers.get(held.flavor)
        if offer is None or (held.contract and held.flavor not in self.held):
            return Ended("withdrawn")
        return Offered(offer)

    def carry_out(self, plan: Plan, *, digest: str = "d1") -> None:
        for gone, _ in plan.forget:
            del self.bindings[gone.flavor]
        for wanted in plan.reserve:
            if wanted.flavor in self.sold_out and wanted.flavor not in self.held:
                self.refused[wanted.flavor, wanted.provider] = "HTTP 409"
                self.bindings.pop(wanted.flavor, None)
            else:
                self.held.add(wanted.flavor)
                self.bindings[wanted.flavor] = binding(
                    wanted.flavor, provider=wanted.provider, configuration_digest=digest
                )
        self.most_bought = max(self.most_bought, len(self.held))
        for told in plan.configure:
            self.bindings[told.flavor] = told.model_copy(update={"configuration_digest": digest, "renewal_time": None})
        for ended, _ in plan.release:
            self.held.discard(ended.flavor)
            del self.bindings[ended.flavor]

    def settle(self, count: Count, *, need: Need = NEED, digest: str = "d1") -> Plan:
        for _ in range(100):
            plan = decide(self.situation(count, need=need, digest=digest))
            if plan.settled:
                return plan
            self.carry_out(plan, digest=digest)
        raise AssertionError(f"never settles: {plan}")


def market(*offers: Candidate, **changed: Any) -> Market:
    return Market(offers={each.flavor: each for each in offers}, **changed)
