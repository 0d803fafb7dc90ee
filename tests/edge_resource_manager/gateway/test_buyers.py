"""Which buyers may do what: what no rule grants is refused, and what cannot be read grants nothing."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from crds.errors import InvalidField
from crds.kube.watch import Gone, Put
from crds.models.buyers import BUYERS_CONFIG_MAP
from crds.selector import device
from edge_resource_manager.domain.buyers import EVERYBODY, NOBODY, May, parse_buyers
from edge_resource_manager.gateway.offers import Listed
from edge_resource_manager.gateway.permissions import Permissions
from spire.domain.spiffe_id import TrustDomain

A, B = TrustDomain("a"), TrustDomain("b")
FAST, SLOW = device({"latencyMicros": 1}), device({"latencyMicros": 10**6})
KEY = ("fluidos", "fluidos-edge-buyers")
SLICE = Listed(body={}, type_data={}, type="k8slice", available=True)


def config_map(text: str) -> dict[str, Any]:
    return {"metadata": {"name": KEY[1]}, "data": {"policy.yaml": text}}


POLICY = """
rules:
- {trustDomains: [a], may: Buy, selector: 'device.attributes["sensor.fluidos.eu"].latencyMicros > 1000'}
- {trustDomains: ["*"], may: See, selector: 'device.attributes["sensor.fluidos.eu"].latencyMicros > 1000'}
- {trustDomains: [b, c], may: See}
"""


def test_the_most_generous_rule_that_covers_a_flavor_counts() -> None:
    buyers = parse_buyers(config_map(POLICY))
    assert [buyers.may(A, each) for each in (FAST, SLOW, None)] == [May.NOTHING, May.BUY, May.NOTHING]
    assert [buyers.may(B, each) for each in (FAST, SLOW, None)] == [May.SEE, May.SEE, May.SEE]
    assert [buyers.may(TrustDomain("z"), each) for each in (FAST, SLOW, None)] == [May.NOTHING, May.SEE, May.NOTHING]


def test_the_policy_of_the_documentation_is_one() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "rear.md").read_text()
    (block,) = [each.partition("```")[0] for each in text.split("```yaml")[1:] if BUYERS_CONFIG_MAP in each]
    buyers = parse_buyers(yaml.safe_load(block))
    assert buyers.may(TrustDomain("hospital.example"), None) is May.BUY
    assert buyers.may(A, device({"category": "Environmental"})) is May.SEE
    assert buyers.may(A, device({"category": "Motion"})) is May.NOTHING


def test_no_policy_lets_everybody_buy_and_an_empty_one_nobody_see() -> None:
    assert EVERYBODY.may(A, None) is May.BUY
    assert NOBODY.may(A, FAST) is May.NOTHING
    assert parse_buyers(config_map("rules: []")).may(A, FAST) is May.NOTHING


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "rules"),
        ("rules: [", "YAML"),
        ("[]", "policy.yaml"),
        ("rules: {}", "rules"),
        ("rules: [{trustDomains: [a]}]", "rules[0].may"),
        ("rules: [{trustDomains: [a], may: buy}]", "rules[0].may"),
        ("rules: [{trustDomains: [], may: Buy}]", "rules[0].trustDomains"),
        ("rules: [{trustDomains: [A], may: Buy}]", "rules[0].trustDomains[0]"),
        ("rules: [{trustDomains: a, may: Buy}]", "rules[0].trustDomains"),
        ("rules: [{trustDomains: [a], may: Buy, selecter: 'false'}]", "rules[0].selecter"),
        ("rules: [{trustDomains: [a], may: Buy, selector: 'device.'}]", "rules[0].selector"),
        ("rules: [{trustDomains: [a], may: Buy}]\nrule: []", "rule"),
    ],
)
def test_a_policy_that_is_wrong_is_refused_as_a_whole_and_says_where(text: str, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_buyers(config_map(text))
    assert field in str(caught.value)


def test_a_config_map_without_the_key_is_no_policy_for_everybody() -> None:
    for obj in ({}, {"data": None}, {"data": {"policy": "rules: []"}}):
        with pytest.raises(InvalidField):
            parse_buyers(obj)


def test_a_broken_policy_changes_nothing_and_at_the_start_grants_nothing() -> None:
    changes: list[None] = []
    permissions = Permissions(lambda: changes.append(None))
    assert permissions.may(A, SLICE) is May.BUY
    permissions.seen(Put(KEY, config_map("rules: [")))
    assert permissions.may(A, SLICE) is May.NOTHING
    permissions.seen(Put(KEY, config_map("rules: [{trustDomains: [a], may: See}]")))
    assert permissions.may(A, SLICE) is May.SEE
    assert len(changes) == 2
    permissions.seen(Put(KEY, config_map("rules: [")))
    assert permissions.may(A, SLICE) is May.SEE
    assert len(changes) == 2
    permissions.seen(Gone(KEY))
    assert permissions.may(A, SLICE) is May.BUY
    assert permissions.may(A, None) is May.NOTHING
    permissions.seen(Put(KEY, config_map("rules: []")))
    assert permissions.may(A, SLICE) is May.NOTHING
    assert permissions.may(None, SLICE) is May.BUY  # where nobody proves anything there is nobody to refuse
