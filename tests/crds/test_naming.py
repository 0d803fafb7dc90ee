"""Names: valid for Kubernetes, the same every time, and different for different things."""

import re

from hypothesis import given
from hypothesis import strategies as st

from crds.naming import contract_name, flavor_name, leaf_device_name, transaction_id

# Every label starts and ends with a letter or digit: what the API server asks of an object's name.
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
PARTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=300) | st.text("a.-", max_size=300)


def test_names_do_not_change() -> None:
    """They are in users' clusters: a change here makes every object anew."""
    assert leaf_device_name(source="KubeEdgeDevice", namespace="default", device="tile-1") == "tile-1-k4gge4ge6v"
    assert (
        flavor_name(domain="fluidos.eu", leaf_namespace="fluidos", leaf_name="tile-1", sensor_uid="31bacf17")
        == "fluidos.eu-sensor-b3mqkiqiqmpegduoix73inud46"
    )
    assert transaction_id(buyer="b", flavor="f", claim="c") == "eca4da2ef3a17999957a352ee394a5e0"
    assert (
        contract_name(flavor="fluidos.eu-sensor-1a2b", transaction="t") == "contract-fluidos-eu-sensor-1a2b-yeq5ncasof"
    )


@given(first=PARTS, second=PARTS, third=PARTS, fourth=PARTS)
def test_every_name_is_valid(first: str, second: str, third: str, fourth: str) -> None:
    names = (
        leaf_device_name(source=first, namespace=second, device=third),
        flavor_name(domain=first, leaf_namespace=second, leaf_name=third, sensor_uid=fourth),
        contract_name(flavor=first, transaction=second),
    )
    for name in names:
        assert SUBDOMAIN.fullmatch(name), name
        assert len(name) <= 253
    assert re.fullmatch("[0-9a-f]{32}", transaction_id(buyer=first, flavor=second, claim=third))


@given(left=st.tuples(PARTS, PARTS, PARTS, PARTS), right=st.tuples(PARTS, PARTS, PARTS, PARTS))
def test_different_things_have_different_names(
    left: tuple[str, str, str, str], right: tuple[str, str, str, str]
) -> None:
    def name(parts: tuple[str, str, str, str]) -> str:
        domain, namespace, leaf, uid = parts
        return flavor_name(domain=domain, leaf_namespace=namespace, leaf_name=leaf, sensor_uid=uid)

    assert (name(left) == name(right)) is (left == right)


def test_where_one_part_ends_and_the_next_begins_counts() -> None:
    assert transaction_id(buyer="a", flavor="bc", claim="d") != transaction_id(buyer="ab", flavor="c", claim="d")
    assert leaf_device_name(source="a", namespace="bc", device="d") != leaf_device_name(
        source="ab", namespace="c", device="d"
    )


def test_devices_that_differ_in_case_or_in_the_cut_part_alone_differ_in_name() -> None:
    long = "a" * 250
    assert leaf_device_name(source="s", namespace="n", device="Tile") != leaf_device_name(
        source="s", namespace="n", device="tile"
    )
    assert leaf_device_name(source="s", namespace="n", device=long + "1") != leaf_device_name(
        source="s", namespace="n", device=long + "2"
    )
