"""What a Firmware's status says after any sequence of looks under any policies."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.errors import InvalidField, Terminal
from crds.models.base import ObjectMeta
from crds.models.firmware import BoardImage, Firmware, FirmwareSpec, Release
from crds.models.firmware_policy import KEY, FirmwarePolicy
from flash_controller.domain.catalog import Found, Look, Missed, decide, keys_for, read_policy, release_of
from flash_controller.domain.packages import Facts, Package
from spire.issuer.firmware_catalog import references
from tests.flash_controller.catalog.publishing import Key

NOW = datetime(2026, 11, 21, tzinfo=UTC)
PEM = Key("any").pem()


def policy(*keys: tuple[str, str], unsigned: str = "Refuse", allow: str = "*") -> FirmwarePolicy:
    entries = [{"name": name, "publicKey": PEM, "applications": [glob]} for name, glob in keys]
    text = {"keys": entries, "unsigned": unsigned, "applications": {"allow": [allow]}}
    return FirmwarePolicy.parse_yaml(str(text), field=KEY)


def release(number: int, *, signed_by: str = "", application: str = "thermo") -> Release:
    digest = f"sha256:{number:064x}"
    board = BoardImage(board="b", manifest_digest=digest, digest=digest, size_bytes=1, measurement=f"{number:064x}")
    return Release(digest=digest, signed_by=signed_by, application=application, boards=(board,))


POLICIES = st.sampled_from(
    [
        policy(("a", "*")),
        policy(("a", "thermo"), ("b", "pump")),
        policy(("b", "*")),
        policy(unsigned="Allow"),
        policy(("a", "*"), unsigned="Allow", allow="pump"),
    ]
)
RELEASES = st.builds(
    lambda number, signed_by, application: release(number, signed_by=signed_by, application=application),
    st.integers(0, 4),
    st.sampled_from(["", "a", "b"]),
    st.sampled_from(["thermo", "pump", ""]),
)
DOUBTS = st.none() | st.just(Terminal("signed by nobody known", reason="NotTrusted"))
LOOKS: st.SearchStrategy[Look] = st.one_of(
    st.builds(
        lambda found, doubt: Found(
            release=found.model_copy(update={"signed_by": ""}) if doubt else found, tag="v1", doubt=doubt
        ),
        RELEASES,
        DOUBTS,
    ),
    st.just(Missed("RegistryUnavailable", "away")),
)
STEPS = st.lists(st.tuples(LOOKS, POLICIES, st.integers(0, 1)), max_size=8)


def firmware(*, limit: int = 2) -> Firmware:
    meta = ObjectMeta(name="thermo", namespace="default", generation=1)
    return Firmware(
        metadata=meta, spec=FirmwareSpec(repository="registry:5000/a", tag="v1", history_limit=limit), status=None
    )


def after(before: Firmware, look: Look, said: FirmwarePolicy, *, more: int = 0) -> Firmware:
    """The Firmware with its next status; `more` new generations of its spec came before."""
    meta = before.metadata.model_copy(update={"generation": (before.metadata.generation or 0) + more})
    changed = before.model_copy(update={"metadata": meta})
    return changed.model_copy(update={"status": decide(changed, look, policy=said, now=NOW)})


def condition(of: Firmware, kind: str) -> str:
    assert of.status is not None
    return next(each.status for each in of.status.conditions if each.type == kind)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_whatever_happens_only_what_the_policy_of_now_allows_is_ready(steps: list[Any]) -> None:
    now = firmware()
    for look, said, more in steps:
        before, now = now, after(now, look, said, more=more)
        status = now.status
        assert status is not None
        trusted = status.signed_by in keys_for(said, status.application)
        assert condition(now, "Verified") != "True" or trusted
        if condition(now, "Ready") == "True":
            assert status.digest is not None
            assert condition(now, "Verified") == "True" or (said.unsigned == "Allow" and not status.signed_by)
            assert said.applications.allow == ("*",) or status.application == "pump"
        digests = [each.digest for each in status.releases]
        assert len(set(digests)) == len(digests)
        assert len(status.history) <= 2
        for each in status.history:
            assert each.signed_by in keys_for(said, each.application) or (
                said.unsigned == "Allow" and not each.signed_by
            )
        assert all(said.applications.allow in (("*",), (each.application,)) for each in status.history)
        if isinstance(look, Missed) and before.status is not None:
            assert status.digest == (None if more else before.status.digest)
            assert condition(now, "Ready") != "True" or condition(before, "Ready") == "True"
            assert condition(now, "Verified") != "True" or condition(before, "Verified") == "True"


@settings(max_examples=50, deadline=None)
@given(steps=STEPS)
def test_to_see_the_same_again_changes_nothing(steps: list[Any]) -> None:
    now = firmware()
    for look, said, more in steps:
        now = after(now, look, said, more=more)
        assert after(now, look, said).status == now.status


def test_what_was_verified_before_stays_known_until_its_key_or_the_limit_goes() -> None:
    said, now = policy(("a", "*")), firmware(limit=2)
    for number in range(4):
        now = after(now, Found(release=release(number, signed_by="a"), tag="v1"), said)
    assert now.status is not None
    assert [each.digest[-1] for each in now.status.releases] == ["3", "2", "1"]
    now = after(now, Found(release=release(4), tag="v1", doubt=Terminal("tampered", reason="NotTrusted")), said)
    assert now.status is not None
    assert [each.digest[-1] for each in now.status.history] == ["3", "2"]
    withdrawn = after(now, Missed("RegistryUnavailable", "away"), policy(("b", "*")))
    assert withdrawn.status is not None
    assert withdrawn.status.history == ()


def test_what_nobody_signed_stays_known_as_long_as_the_policy_takes_it() -> None:
    takes, now = policy(unsigned="Allow"), firmware()
    for number in range(2):
        now = after(now, Found(release=release(number), tag="v1"), takes)
    tampered = Found(release=release(2), tag="v1", doubt=Terminal("tampered", reason="NotTrusted"))
    now = after(after(now, tampered, takes), Found(release=release(3), tag="v1"), takes)
    assert now.status is not None
    assert [each.digest[-1] for each in now.status.releases] == ["3", "1", "0"]
    assert list(references(now)) == [], "no device proves anything by it"
    refused = after(now, Missed("RegistryUnavailable", "away"), policy())
    assert refused.status is not None
    assert refused.status.history == ()


def test_an_index_that_no_status_can_show_is_refused_by_field() -> None:
    package = Package(digest="latest", facts=Facts(), sensors=(), parts=())
    with pytest.raises(InvalidField, match=r"index\.digest: 'latest'"):
        release_of(package, signed_by=None)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (None, r"data\[policy.yaml\]"),
        ({}, r"data\[policy.yaml\]"),
        ({KEY: "keys: 7"}, r"policy.yaml.keys: 7"),
        ({KEY: "unsigned: Perhaps"}, "policy.yaml.unsigned: 'Perhaps'"),
        ({KEY: "unsinged: Allow"}, "policy.yaml.unsinged"),
        (
            {KEY: "keys: [{name: a, publicKey: '-----BEGIN PUBLIC KEY-----', applications: ['*']}]"},
            r"keys\[0\].publicKey",
        ),
        ({KEY: f"keys: [{{name: a, publicKey: {PEM!r}, applications: []}}]"}, r"keys\[0\].applications"),
    ],
)
def test_a_policy_that_is_wrong_is_refused_by_field(data: Any, field: str) -> None:
    with pytest.raises(InvalidField, match=field):
        read_policy({"data": data})
