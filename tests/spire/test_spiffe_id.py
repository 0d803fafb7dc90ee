"""SPIFFE IDs are parsed strictly and compared as values."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.errors import InvalidField
from spire.domain.spiffe_id import SpiffeId, TrustDomain, device_spiffe_id
from spire.domain.ueid import Ueid

UEID = Ueid(b"\x01" + bytes(range(16)))


def test_a_device_is_named_by_its_ueid_and_application() -> None:
    named = device_spiffe_id(TrustDomain("provider.test"), ueid=UEID, application="thermo-v2")
    assert str(named) == f"spiffe://provider.test/device/{UEID}/app/thermo-v2"
    assert SpiffeId.parse(str(named)) == named
    assert named.trust_domain == TrustDomain("provider.test")


@pytest.mark.parametrize("application", ["", "a/b", ".", "..", "a b", "ä", "a%2Fb", "a\n"])
def test_an_application_cannot_reach_out_of_its_segment(application: str) -> None:
    with pytest.raises(InvalidField, match=r"spiffeID\.path"):
        device_spiffe_id(TrustDomain("provider.test"), ueid=UEID, application=application)


@pytest.mark.parametrize("text", ["spiffe://td.test", "spiffe://td.test/a", "spiffe://t_d-1/A/b.c/..."])
def test_ids_are_read(text: str) -> None:
    assert str(SpiffeId.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "spiffe:///a",
        "SPIFFE://td.test/a",
        "http://td.test/a",
        "spiffe://TD.test/a",
        "spiffe://td.test/",
        "spiffe://td.test/a/",
        "spiffe://td.test//a",
        "spiffe://td.test/./a",
        "spiffe://td.test/a/..",
        "spiffe://td.test/a?b",
        "spiffe://td.test/a#b",
        "spiffe://td.test/%61",
        "spiffe://td.test:443/a",
        "spiffe://user@td.test/a",
        "spiffe://td.test/a\n",
        "spiffe://td.test\n",
        "spiffe://" + "a" * 256,
        "spiffe://td.test/" + "a" * 2048,
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidField):
        SpiffeId.parse(text)


@given(st.text(max_size=60))
@settings(max_examples=200)
def test_any_text_is_an_id_that_reads_the_same_or_is_refused(text: str) -> None:
    for candidate in (text, f"spiffe://{text}", f"spiffe://td.test/{text}"):
        try:
            parsed = SpiffeId.parse(candidate)
        except InvalidField:
            continue
        assert str(parsed) == candidate
