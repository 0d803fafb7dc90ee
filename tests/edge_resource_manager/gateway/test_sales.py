"""Reserving and buying: a place that is held is held, a retry changes nothing, what is over is removed."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from scripts.testbed.cluster import Cluster
from tests.edge_resource_manager.gateway import samples
from tests.edge_resource_manager.gateway.conftest import Answer, Provider, eventually, running


async def test_a_sensor_is_reserved_bought_and_given_back(provider: Provider, namespace: str) -> None:
    (flavor,) = await provider.offer(samples.flavor("a", namespace=namespace))
    reserved = await provider.reserve(flavor)
    assert reserved.status == 200
    assert reserved.json["flavorID"] == flavor
    assert reserved.json["buyer"] == samples.buyer()
    assert reserved.json["configuration"] == samples.configuration()
    bought = await provider.purchase(
        reserved.json["transactionID"], json={"ingressTelemetryEndpoint": {"endpoint": samples.TARGET, "intents": []}}
    )
    assert bought.status == 200
    contract = bought.json
    assert contract["contractID"] == f"contract-{reserved.json['transactionID']}"
    assert contract["flavor"]["type"]["name"] == "sensor"
    assert contract["buyerID"] == samples.buyer()
    assert contract["seller"]["ID"] == samples.NODE_ID
    assert contract["peeringTargetCredentials"] == {"clusterID": "", "kubeconfig": ""}
    assert contract["ingressTelemetryEndpoint"]["endpoint"] == samples.TARGET
    assert (await provider.get(f"/contracts/{contract['contractID']}")).json == contract
    # Before the answer left, both were in the API server, in the flavor's namespace.
    (stored,) = provider.objects("contracts", namespace)
    assert stored["spec"]["configuration"]["type"] == "Sensor"
    assert stored["spec"]["flavor"]["metadata"]["name"] == flavor
    assert [each["metadata"]["name"] for each in provider.objects("transactions", namespace)] == [
        reserved.json["transactionID"]
    ]

    assert (await provider.ask("DELETE", f"/contracts/{contract['contractID']}")).status == 204
    assert (await provider.ask("DELETE", f"/contracts/{contract['contractID']}")).status == 404
    assert (await provider.get(f"/contracts/{contract['contractID']}")).status == 404
    assert provider.objects("contracts", namespace) == []


async def test_a_held_place_is_held_until_it_expires(provider: Provider, namespace: str) -> None:
    (flavor,) = await provider.offer(samples.sensor("one", namespace=namespace, additional={"maxConsumers": "1"}))
    held = await provider.reserve(flavor, buyer_id="first")
    assert held.status == 200
    refused = await provider.reserve(flavor, buyer_id="second")
    assert refused.status == 409
    assert "1 place" in refused.json["detail"]
    provider.clock.advance(seconds=61)
    assert (await provider.reserve(flavor, buyer_id="second")).status == 200
    # The first one comes too late, and the second one's place is not taken from it.
    assert (await provider.purchase(held.json["transactionID"])).status in (404, 408)
    assert (await provider.reserve(flavor, buyer_id="first")).status == 409


async def test_a_purchase_after_the_expiry_is_408_and_after_the_clean_up_404(untidy: Provider, namespace: str) -> None:
    (flavor,) = await untidy.offer(samples.flavor("a", namespace=namespace))
    transaction = (await untidy.reserve(flavor)).json["transactionID"]
    untidy.clock.advance(seconds=61)
    late = await untidy.purchase(transaction)
    assert late.status == 408
    assert "expired" in late.json["detail"]
    await untidy.gateway.housekeeper.look()
    assert (await untidy.purchase(transaction)).status == 404
    assert untidy.objects("transactions", namespace) == []


async def test_giving_a_reservation_back_frees_the_place(provider: Provider, namespace: str) -> None:
    (flavor,) = await provider.offer(samples.sensor("one", namespace=namespace, additional={"maxConsumers": "1"}))
    transaction = (await provider.reserve(flavor, buyer_id="first")).json["transactionID"]
    assert (await provider.ask("DELETE", f"/transactions/{transaction}")).status == 204
    assert (await provider.ask("DELETE", f"/transactions/{transaction}")).status == 404
    for _ in range(3):  # an echo of the watch does not bring an ended life back, nor end a new one
        again = (await provider.reserve(flavor, buyer_id="second")).json["transactionID"]
        assert (await provider.ask("DELETE", f"/transactions/{again}")).status == 204
    assert (await provider.reserve(flavor, buyer_id="third")).status == 200


async def test_reserving_again_is_the_same_transaction_with_the_newer_wish(provider: Provider, namespace: str) -> None:
    (flavor,) = await provider.offer(samples.flavor("a", namespace=namespace))
    first = await provider.reserve(flavor, filter={"everyNth": 2})
    provider.clock.advance(seconds=30)
    second = await provider.reserve(flavor, url="http://192.0.2.8/other")
    assert second.json["transactionID"] == first.json["transactionID"]
    assert second.json["expirationTime"] > first.json["expirationTime"]
    assert second.json["configuration"] == samples.configuration(url="http://192.0.2.8/other")
    (stored,) = provider.objects("transactions", namespace)
    assert stored["spec"]["configuration"]["data"] == second.json["configuration"]["data"]
    # Another claim of the same buyer is another transaction.
    other = await provider.reserve(flavor, claim="uid-2")
    assert other.json["transactionID"] != first.json["transactionID"]


async def test_everything_may_be_asked_twice_at_the_same_moment(provider: Provider, namespace: str) -> None:
    (flavor,) = await provider.offer(samples.sensor("one", namespace=namespace, additional={"maxConsumers": "1"}))
    answers = await asyncio.gather(*(provider.reserve(flavor) for _ in range(8)))
    assert {each.status for each in answers} == {200}
    (transaction,) = {each.json["transactionID"] for each in answers}
    contracts = await asyncio.gather(*(provider.purchase(transaction) for _ in range(8)))
    assert {each.status for each in contracts} == {200}
    assert len({each.json["contractID"] for each in contracts}) == 1
    assert len(provider.objects("contracts", namespace)) == 1
    # Reserving what is bought gives the transaction as it was, and no second place.
    assert (await provider.reserve(flavor)).json["transactionID"] == transaction
    assert (await provider.reserve(flavor, buyer_id="other")).status == 409


async def test_the_last_place_goes_to_one_of_many(provider: Provider, namespace: str) -> None:
    (flavor,) = await provider.offer(samples.sensor("three", namespace=namespace, additional={"maxConsumers": "3"}))
    answers = await asyncio.gather(*(provider.reserve(flavor, buyer_id=f"buyer-{number}") for number in range(12)))
    assert sorted(each.status for each in answers) == [200] * 3 + [409] * 9
    assert len(provider.objects("transactions", namespace)) == 3


async def test_a_contract_is_changed_and_renewed_as_a_whole(provider: Provider, namespace: str) -> None:
    (flavor,) = await provider.offer(samples.flavor("a", namespace=namespace))
    transaction = (await provider.reserve(flavor, filter={"everyNth": 2})).json["transactionID"]
    contract = (await provider.purchase(transaction)).json
    provider.clock.advance(hours=12)
    path = f"/contracts/{contract['contractID']}/configuration"
    wanted = samples.configuration(url="http://192.0.2.9/new")
    changed = await provider.ask("PUT", path, json=wanted)
    assert changed.status == 200
    assert changed.json["configuration"] == wanted  # without the filter of before
    assert changed.json["ingressTelemetryEndpoint"]["endpoint"] == "http://192.0.2.9/new"
    assert changed.json["expirationTime"] > contract["expirationTime"]
    (stored,) = provider.objects("contracts", namespace)
    assert stored["spec"]["configuration"]["data"] == wanted["data"]

    foreign = await provider.ask("PUT", path, json=samples.configuration(claim="uid-9"))
    assert (foreign.status, foreign.json["field"]) == (400, "data.claim.uid")
    loopback = await provider.ask("PUT", path, json=samples.configuration(url="http://127.0.0.1/"))
    assert loopback.status == 403
    assert (await provider.ask("PUT", "/contracts/contract-0/configuration", json=wanted)).status == 404
    assert provider.objects("contracts", namespace)[0]["spec"] == stored["spec"]


async def test_a_contract_ends_when_it_is_not_renewed(provider: Provider, namespace: str) -> None:
    (flavor,) = await provider.offer(samples.sensor("one", namespace=namespace, additional={"maxConsumers": "1"}))
    contract = (await provider.purchase((await provider.reserve(flavor)).json["transactionID"])).json
    provider.clock.advance(hours=23)
    assert (await provider.get(f"/contracts/{contract['contractID']}")).status == 200
    provider.clock.advance(hours=1, seconds=1)
    assert (await provider.get(f"/contracts/{contract['contractID']}")).status == 404
    await eventually(lambda: provider.objects("contracts", namespace) == [], "the expired contract is removed")
    # The same buyer may come again: the names are the same, the lives are not.
    again = (await provider.purchase((await provider.reserve(flavor)).json["transactionID"])).json
    assert again["contractID"] == contract["contractID"]
    assert again["expirationTime"] > contract["expirationTime"]


async def test_the_place_of_a_contract_that_was_ended_is_free_at_once(provider: Provider, namespace: str) -> None:
    (flavor,) = await provider.offer(samples.sensor("one", namespace=namespace, additional={"maxConsumers": "1"}))
    transaction = (await provider.reserve(flavor)).json["transactionID"]
    contract = (await provider.purchase(transaction)).json
    assert (await provider.ask("DELETE", f"/contracts/{contract['contractID']}")).status == 204
    assert (await provider.purchase(transaction)).status == 404
    assert (await provider.reserve(flavor, buyer_id="other")).status == 200


async def test_an_expired_contract_that_still_stands_does_not_stop_its_buyer(untidy: Provider, namespace: str) -> None:
    (flavor,) = await untidy.offer(samples.flavor("a", namespace=namespace))
    contract = (await untidy.purchase((await untidy.reserve(flavor)).json["transactionID"])).json
    untidy.clock.advance(hours=25)
    again = await untidy.purchase((await untidy.reserve(flavor)).json["transactionID"])
    assert again.status == 200
    assert again.json["expirationTime"] > contract["expirationTime"]


async def test_a_deleted_flavor_takes_its_contracts_with_it_and_an_unavailable_one_does_not(
    provider: Provider, namespace: str
) -> None:
    gone, away = await provider.offer(
        samples.flavor("gone", namespace=namespace), samples.flavor("away", namespace=namespace)
    )
    for flavor in (gone, away):
        assert (await provider.purchase((await provider.reserve(flavor)).json["transactionID"])).status == 200
    open_reservation = (await provider.reserve(gone, buyer_id="other")).json["transactionID"]
    await provider.offer(samples.flavor("away", namespace=namespace, available=False))
    path = f"/apis/nodecore.fluidos.eu/v1alpha1/namespaces/{namespace}/flavors/{gone}"
    provider.cluster.api.request("DELETE", path)
    await eventually(lambda: provider.gateway.store.find(gone) is None, "the gateway sees it")
    assert (await provider.purchase(open_reservation)).status in (404, 409)
    assert (await provider.reserve(gone)).status == 404
    assert (await provider.reserve(away, buyer_id="other")).status == 409

    def left() -> list[str]:
        items = provider.objects("contracts", namespace)
        return [each["spec"]["flavor"]["metadata"]["name"] for each in items]

    await eventually(lambda: left() == [away], "the contract of the deleted flavor is removed")
    await eventually(
        lambda: {each["spec"]["flavorID"] for each in provider.objects("transactions", namespace)} == {away},
        "so are its transactions",
    )


async def test_a_flavor_that_the_gateway_merely_does_not_see_keeps_its_contracts(
    provider: Provider, namespace: str
) -> None:
    (flavor,) = await provider.offer(samples.flavor("a", namespace=namespace))
    assert (await provider.purchase((await provider.reserve(flavor)).json["transactionID"])).status == 200
    # What nobody can read any more is not offered, but it is there.
    provider.cluster.apply([samples.sensor("a", namespace=namespace, latency="soon")])
    await eventually(lambda: provider.gateway.store.find(flavor) is None, "it is not offered")
    for _ in range(3):
        await provider.gateway.housekeeper.look()
    assert len(provider.objects("contracts", namespace)) == 1


async def test_what_others_made_is_counted_but_never_touched(provider: Provider, namespace: str) -> None:
    (flavor,) = await provider.offer(samples.sensor("one", namespace=namespace, additional={"maxConsumers": "1"}))
    transaction = (await provider.reserve(flavor)).json["transactionID"]
    bought = provider.cluster.api.request(
        "GET", f"/apis/reservation.fluidos.eu/v1alpha1/namespaces/{namespace}/transactions/{transaction}"
    )
    await provider.ask("DELETE", f"/transactions/{transaction}")
    foreign = {
        "apiVersion": bought["apiVersion"],
        "kind": "Transaction",
        "metadata": {"name": "by-hand", "namespace": namespace},
        "spec": {**bought["spec"], "expirationTime": "2020-01-01T00:00:00Z"},
    }
    provider.cluster.apply([foreign])
    await eventually(lambda: bool(provider.gateway.store.transactions.of_flavor(flavor)), "the gateway sees it")
    assert (await provider.ask("DELETE", "/transactions/by-hand")).status == 404
    await provider.gateway.housekeeper.look()
    assert [each["metadata"]["name"] for each in provider.objects("transactions", namespace)] == ["by-hand"]
    # Expired, it takes no place; alive, it does.
    second = (await provider.reserve(flavor, buyer_id="second")).json["transactionID"]
    assert (await provider.ask("DELETE", f"/transactions/{second}")).status == 204
    foreign["spec"]["expirationTime"] = "2100-01-01T00:00:00Z"
    provider.cluster.apply([foreign])
    await eventually(
        lambda: (
            provider.gateway.store.transactions.of_flavor(flavor)["by-hand"].spec.expiration_time
            == "2100-01-01T00:00:00Z"
        ),
        "the gateway sees the change",
    )
    assert (await provider.reserve(flavor, buyer_id="third")).status == 409


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:8080/", "loopback"),
        ("http://[::1]/", "loopback"),
        ("http://[::ffff:127.0.0.1]/", "loopback"),
        ("http://[::ffff:7f00:1]/", "loopback"),
        ("http://[64:ff9b::7f00:1]/", "loopback"),
        ("http://127.1/", "loopback"),
        ("http://2130706433/", "loopback"),
        ("http://0x7f000001/", "loopback"),
        ("http://localhost:9/", "loopback"),
        ("http://169.254.169.254/latest/meta-data", "link-local"),
        ("http://[fe80::1]/", "link-local"),
        ("http://0.0.0.0/", "unspecified"),
        ("http://224.0.0.1/", "multicast"),
        ("http://10.96.0.1/", "10.96.0.0/12"),
        ("http://name.that.does.not.exist.invalid/", "could not be resolved"),
    ],
)
async def test_endpoints_inside_are_refused_by_name(
    provider_cluster: Cluster, namespace: str, url: str, reason: str
) -> None:
    async with running(provider_cluster, egress_refuse="10.96.0.0/12") as provider:
        (flavor,) = await provider.offer(samples.flavor("a", namespace=namespace))
        endpoints = [{"name": "good", "url": samples.TARGET}, {"name": "bad", "url": url}]
        answer = await provider.reserve(flavor, endpoints=endpoints)
        assert answer.status == 403
        assert f"endpoint bad ({url})" in answer.json["detail"]
        assert reason in answer.json["detail"]
        assert provider.objects("transactions", namespace) == []


async def test_the_policy_may_allow_what_it_would_refuse(provider_cluster: Cluster, namespace: str) -> None:
    async with running(provider_cluster, egress_allow="127.0.0.0/8") as provider:
        (flavor,) = await provider.offer(samples.flavor("a", namespace=namespace))
        reserved = await provider.reserve(flavor, url="http://127.0.0.1:4487/t")
        assert reserved.status == 200
        other = {"ingressTelemetryEndpoint": {"endpoint": "http://10.96.0.1/", "intents": []}}
        answer = await provider.purchase(reserved.json["transactionID"], json=other)
        assert (answer.status, answer.json["field"]) == (400, "ingressTelemetryEndpoint.endpoint")


async def test_what_is_wrong_in_a_reservation_is_named(provider: Provider, namespace: str) -> None:
    (flavor,) = await provider.offer(samples.flavor("a", namespace=namespace))
    good = samples.wish(flavor)
    for body, field in [
        ({**good, "flavorID": 7}, "flavorID"),
        ({**good, "buyerID": {"ID": "x"}}, "buyerID.IP"),
        ({key: value for key, value in good.items() if key != "configuration"}, "configuration"),
        ({**good, "configuration": {"type": "k8slice", "data": {}}}, "configuration.type"),
        ({**good, "configuration": {"type": "sensor", "data": {}}}, "configuration.data.claim"),
    ]:
        answer = await provider.ask("POST", "/reservations", json=body)
        assert (answer.status, answer.json["field"]) == (400, field)
    missing = await provider.reserve("no-such-flavor")
    assert missing.status == 404
    assert (await provider.purchase("0" * 32)).status == 404


async def test_a_slice_cannot_be_reserved_here(provider: Provider, namespace: str) -> None:
    (name,) = await provider.offer(samples.flavor("x", namespace=namespace, kind="K8Slice", data=samples.K8SLICE))
    assert (await provider.reserve(name)).status == 404


async def test_an_api_server_that_is_away_is_503_and_the_retry_buys_once(start_cluster: Callable[..., Cluster]) -> None:
    own = start_cluster(controllers=False)
    own.apply([samples.IDENTITY])
    async with running(own) as provider:
        (flavor,) = await provider.offer(samples.flavor("a", namespace="default"))
        transaction = (await provider.reserve(flavor)).json["transactionID"]
        own.kill_apiserver()
        assert (await provider.reserve(flavor, buyer_id="second")).status == 503
        # Nobody knows whether it was stored: of two places none is left.
        assert (await provider.reserve(flavor, buyer_id="third")).status == 409
        away = await provider.purchase(transaction)
        assert away.status == 503
        assert int(away.headers["Retry-After"]) >= 1
        # What is only read is still answered.
        assert (await provider.get(f"/flavors/sensors/{flavor}")).status == 200
        own.restart_apiserver()

        async def bought() -> bool:
            return (await provider.purchase(transaction)).status == 200

        await eventually(bought, "bought after the restart")
        assert (await provider.reserve(flavor, buyer_id="second")).status == 200
        assert len(provider.objects("transactions", "default")) == 2
        assert len(provider.objects("contracts", "default")) == 1


async def test_a_write_whose_answer_got_lost_is_found_by_the_retry(provider: Provider, namespace: str) -> None:
    (flavor,) = await provider.offer(samples.sensor("one", namespace=namespace, additional={"maxConsumers": "1"}))

    async def twice(ask: Callable[[], Awaitable[Answer]]) -> Answer:
        provider.kube.lost_answers = 1
        assert (await ask()).status == 503
        assert provider.kube.lost_answers == 0
        return await ask()

    provider.kube.lost_answers = 1
    assert (await provider.reserve(flavor)).status == 503
    assert (await provider.reserve(flavor, buyer_id="other")).status == 409
    reserved = await provider.reserve(flavor)
    assert reserved.status == 200
    transaction = reserved.json["transactionID"]
    renewed = await twice(lambda: provider.reserve(flavor))
    assert renewed.json["transactionID"] == transaction
    bought = await twice(lambda: provider.purchase(transaction))
    assert bought.status == 200
    path = f"/contracts/{bought.json['contractID']}"
    changed = await twice(lambda: provider.ask("PUT", f"{path}/configuration", json=samples.configuration()))
    assert changed.status == 200
    assert len(provider.objects("contracts", namespace)) == 1
    assert (await twice(lambda: provider.ask("DELETE", path))).status in (204, 404)
    assert provider.objects("contracts", namespace) == []


async def test_another_life_finds_what_the_first_one_sold(provider_cluster: Cluster, namespace: str) -> None:
    flavor = samples.sensor("one", namespace=namespace, additional={"maxConsumers": "1"})
    async with running(provider_cluster) as first:
        (name,) = await first.offer(flavor)
        transaction = (await first.reserve(name)).json
    async with running(provider_cluster) as second:
        assert (await second.reserve(name, buyer_id="other")).status == 409
        contract = (await second.purchase(transaction["transactionID"])).json
    async with running(provider_cluster) as third:
        assert (await third.purchase(transaction["transactionID"])).json == contract
        assert (await third.reserve(name)).json["transactionID"] == transaction["transactionID"]
        assert (await third.reserve(name, buyer_id="other")).status == 409
