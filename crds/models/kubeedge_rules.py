"""Rule and RuleEndpoint of KubeEdge's router, in the shape that KubeEdge defines.

Its router knows creation and deletion alone: a change of either has no effect until cloudcore starts anew, and where
KubeEdge's admission is installed it is refused. `Rule.status` stays empty.
Source: kubeedge/kubeedge, build/crds/router (1.23).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from crds.models.base import Crd, Model, Resource

GROUP = "rules.kubeedge.io"
Properties = dict[str, str]


class RuleEndpointSpec(Model):
    """What the router reads from, or posts to."""

    rule_endpoint_type: Literal["rest", "eventbus", "servicebus"]
    properties: Properties | None = None


class RuleEndpoint(Resource):
    """One end of a Rule."""

    crd: ClassVar[Crd] = Crd(
        group=GROUP,
        version="v1",
        kind="RuleEndpoint",
        plural="ruleendpoints",
        short_names=("re",),
        status_subresource=False,
    )

    spec: RuleEndpointSpec


class RuleSpec(Model):
    """From one RuleEndpoint of the namespace to another."""

    source: str
    source_resource: Properties
    target: str
    target_resource: Properties


class RuleStatus(Model):
    """What the router would have counted."""

    success_messages: int | None = None
    fail_messages: int | None = None
    errors: tuple[str, ...] | None = None


class Rule(Resource):
    """One topic of one node's broker, exactly, to one URL."""

    crd: ClassVar[Crd] = Crd(group=GROUP, version="v1", kind="Rule", plural="rules", status_subresource=False)

    spec: RuleSpec
    status: RuleStatus | None = None
