"""What a buyer sees of a cluster: lists, filters, single flavors."""

import pytest

from tests.edge_resource_manager.gateway import samples
from tests.edge_resource_manager.gateway.conftest import Answer, Provider
from tests.edge_resource_manager.gateway.test_wire import SCHEMA


async def test_sensors_are_listed_by_their_own_path_and_never_in_the_plain_list(
    provider: Provider, namespace: str
) -> None:
    sensor, *_ = await provider.offer(
        samples.flavor("a", namespace=namespace),
        samples.flavor("slice", namespace=namespace, kind="K8Slice", data=samples.K8SLICE),
        samples.flavor("service", namespace=namespace, kind="Service", data=samples.SERVICE),
    )
    plain = await provider.get("/flavors")
    assert {each["type"]["name"] for each in plain.json} == {"k8slice", "service"}
    for path in ("/flavors/sensors", "/flavors/sensor"):
        found = await provider.get(path, **{"filter[node][match]": namespace})
        assert [each["flavorID"] for each in found.json] == [sensor]
    (flavor,) = found.json
    assert flavor["type"]["data"] == {"characteristics": samples.characteristics("uid-a", node=namespace)}
    assert flavor["owner"] == {"ID": samples.NODE_ID, "IP": "127.0.0.1:3004", "domain": "fluidos.eu"}
    # FLUIDOS sends the country as the altitude.
    assert flavor["location"] == {"altitude": "Greece", "city": "Heraklion"}
    assert (await provider.get(f"/flavors/sensors/{sensor}")).json == flavor


async def test_stock_lists_keep_the_misspelt_wire(provider: Provider, namespace: str) -> None:
    (name,) = await provider.offer(samples.flavor("x", namespace=namespace, kind="K8Slice", data=samples.K8SLICE))
    for path in ("/flavors/k8slice", "/flavors/k8slices"):
        found = await provider.get(path, **{"filter[cpu][range][min]": "4000m", "filter[memory][match]": "8192Mi"})
        flavor = next(each for each in found.json if each["flavorID"] == name)
        assert flavor["type"]["data"]["charateristics"] == samples.K8SLICE["characteristics"]
        assert "carbonFootprint" in flavor["type"]["data"]["properties"]
    none = await provider.get("/flavors/k8slice", **{"filter[cpu][range][max]": "3999m"})
    assert name not in ids(none)


async def test_services_are_found_by_category_and_tag(provider: Provider, namespace: str) -> None:
    (name,) = await provider.offer(samples.flavor("x", namespace=namespace, kind="Service", data=samples.SERVICE))
    query = {"filter[category][match]": "database", "filter[tags][match]": "postgres"}
    for path in ("/flavors/service", "/flavors/services"):
        assert name in ids(await provider.get(path, **query))
    assert name not in ids(await provider.get("/flavors/service", **{"filter[tags][match]": "kafka"}))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"filter[latency][range][max]": "16"}, {"exact", "fast"}),
        ({"filter[latency][range][lessThan]": "16"}, {"fast"}),
        ({"filter[latency][range][lessThan]": "0.016s"}, {"fast"}),
        ({"filter[latency][range][min]": "16"}, {"exact", "slow"}),
        ({"filter[latency][range][greaterThan]": "16 ms"}, {"slow"}),
        ({"filter[latency][match]": "16000us"}, {"exact"}),
        ({"filter[sensorType][match]": "humidity", "filter[model][match]": "HTS221"}, {"exact", "fast", "slow"}),
        ({"sensor_type": "Humidity", "sampling_rate[exact]": "1"}, {"exact", "fast", "slow"}),
        ({"filter[sensor_type][match]": "Pressure"}, set()),
        ({"filter[mcuFamily][match]": "STM32"}, {"fast"}),
    ],
)
async def test_filters_compare_numbers_as_numbers(
    provider: Provider, namespace: str, query: dict[str, str], found: set[str]
) -> None:
    await provider.offer(
        samples.sensor("exact", namespace=namespace, latency="16.000"),
        samples.sensor("fast", namespace=namespace, latency="15.999", additional={"mcu": "STM32U585AI"}),
        samples.sensor("slow", namespace=namespace, latency="16.001"),
    )
    answer = await provider.get("/flavors/sensors", **{"filter[node][match]": namespace, **query})
    assert ids(answer) == {samples.named(name, namespace) for name in found}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"filter[colour][match]": "red"}, "filter[colour][match]"),
        ({"filter[latency][regex]": "1.*"}, "filter[latency][regex]"),
        ({"filter[latency][range][max]": "16 parsec"}, "filter[latency][range][max]"),
        ({"filter[latency][range][max]": "16 mW"}, "filter[latency][range][max]"),
        ({"filter[latency][range][max]": "NaN"}, "filter[latency][range][max]"),
        ({"filter[latency][range][max]": "-1"}, "filter[latency][range][max]"),
        ({"filter[model][range][max]": "z"}, "filter[model][range][max]"),
        ({"filter[accuracy][range][max]": "0.5"}, "filter[accuracy][range][max]"),
        ({"limit": "0"}, "limit"),
        ({"latency": "16"}, "(query)"),
    ],
)
async def test_a_query_that_is_not_understood_is_a_problem_that_names_it(
    provider: Provider, query: dict[str, str], field: str
) -> None:
    answer = await provider.get("/flavors/sensors", **query)
    assert answer.status == 400
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.json["field"] == field
    assert answer.json["value"]
    assert answer.json["expected"]


async def test_a_list_is_cut_at_its_limit_and_says_so(provider: Provider, namespace: str) -> None:
    names = await provider.offer(*(samples.sensor(f"s{number}", namespace=namespace) for number in range(5)))
    answer = await provider.get("/flavors/sensors", **{"filter[node][match]": namespace, "limit": "3"})
    assert [each["flavorID"] for each in answer.json] == [*names[:3]]
    assert answer.headers["Total-Count"] == "5"


async def test_what_is_unavailable_or_broken_is_not_listed_and_hides_nothing(
    provider: Provider, namespace: str
) -> None:
    broken = samples.sensor("broken", namespace=namespace, latency="soon")
    provider.cluster.apply([broken])
    away, good = await provider.offer(
        samples.sensor("away", namespace=namespace, available=False), samples.sensor("good", namespace=namespace)
    )
    answer = await provider.get("/flavors/sensors", **{"filter[node][match]": namespace})
    assert ids(answer) == {good}
    assert (await provider.get(f"/flavors/sensors/{away}")).json["availability"] is False
    assert (await provider.get(f"/flavors/sensors/{broken['metadata']['name']}")).status == 404
    # Repaired, it is offered.
    (repaired,) = await provider.offer(samples.sensor("broken", namespace=namespace))
    assert (await provider.get(f"/flavors/sensors/{repaired}")).status == 200


async def test_unknown_paths_and_methods_are_problems_too(provider: Provider) -> None:
    assert (await provider.get("/flavors/vm")).json["status"] == 404
    wrong = await provider.ask("PATCH", "/reservations")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")
    assert wrong.json["title"] == "Method Not Allowed"


async def test_every_route_is_in_the_openapi_document_and_every_reference_leads_somewhere(provider: Provider) -> None:
    document = (await provider.get("/openapi.json")).json
    described = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method in ("get", "post", "put", "delete")
    }
    served = {
        (route.method, route.resource.canonical)
        for route in provider.gateway.app.router.routes()
        if route.resource is not None
    }
    assert described == served
    operations = [
        (path, item, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    ]
    names = [operation["operationId"] for _, _, operation in operations]
    assert len(set(names)) == len(names)
    for path, item, operation in operations:
        in_path = {each["name"] for each in item.get("parameters", ()) if each["in"] == "path"}
        assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}
        assert any(code.startswith("2") for code in operation["responses"])
        assert all(each["description"] for each in operation["responses"].values())
    for reference in _references(document):
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


async def test_the_schema_that_is_served_is_the_one_that_is_checked_in(provider: Provider) -> None:
    async with provider.http.get(f"{provider.url}/schemas/sensor-configuration.json") as response:
        assert response.status == 200
        assert await response.text() == SCHEMA.read_text()


def ids(answer: Answer) -> set[str]:
    return {each["flavorID"] for each in answer.json}


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        here = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return here + [each for value in node.values() for each in _references(value)]
    return [each for value in node for each in _references(value)] if isinstance(node, list) else []
