"""Pulling one board's image from a real registry, and what goes wrong there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crds.errors import EdgeError, Retryable, Terminal
from flash_controller.oci.cache import Cache
from flash_controller.oci.catalog import resolve
from flash_controller.oci.pull import Pulled, pull
from flash_controller.oci.registry import Registry
from scripts.testbed import registry as testbed
from tests.flash_controller.oci.proxy import Fault, Proxy, altered, cut, endless, proxied, silent, status, whole
from tests.flash_controller.oci.shelf import BOARDS, IMAGE_BYTES, Shelf, stock

BOARD = BOARDS[5]


@pytest.fixture(scope="module")
async def shelf(registry: testbed.Registry) -> Shelf:
    return await stock(registry.host, "firmware/pulled")


@pytest.fixture
async def proxy(registry: testbed.Registry) -> AsyncIterator[Proxy]:
    async with proxied(registry.host) as standing:
        yield standing


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


async def get(proxy: Proxy, shelf: Shelf, cache: Cache, *, board: str = BOARD, limit_seconds: float = 60) -> Pulled:
    """As a runner does."""
    async with Registry(f"{proxy.host}/{shelf.path}", plain_http=True, silence_seconds=30) as repository:
        return await pull(
            repository,
            digest=shelf.digest,
            board=board,
            cache=cache,
            progress=proxy.progress,
            limit_seconds=limit_seconds,
        )


async def test_one_board_costs_little_more_than_its_image(proxy: Proxy, shelf: Shelf, cache: Cache) -> None:
    assert (await get(proxy, shelf, cache)).data == shelf.images[BOARD]
    assert len(proxy.seen) == 3, "an index, a manifest and a blob"
    assert proxy.bytes_sent < 1.05 * IMAGE_BYTES


async def test_what_was_pulled_is_not_pulled_again(proxy: Proxy, shelf: Shelf, cache: Cache) -> None:
    first = await get(proxy, shelf, cache)
    proxy.seen.clear()
    assert await get(proxy, shelf, cache) == first
    assert proxy.seen == []


async def test_runners_of_one_node_pull_an_image_once(proxy: Proxy, shelf: Shelf, tmp_path: Path) -> None:
    caches = [Cache(tmp_path) for _ in range(8)]
    pulled = await asyncio.gather(*(get(proxy, shelf, each) for each in caches))
    assert {each.data for each in pulled} == {shelf.images[BOARD]}
    assert len(proxy.seen) == 3


async def test_progress_is_told_in_bytes(proxy: Proxy, shelf: Shelf, cache: Cache) -> None:
    told: list[tuple[int, int]] = []
    async with Registry(f"{proxy.host}/{shelf.path}", plain_http=True) as repository:
        await pull(
            repository,
            digest=shelf.digest,
            board=BOARD,
            cache=cache,
            progress=lambda done, total: told.append((done, total)),
        )
    assert told == sorted(told)
    assert told[-1] == (IMAGE_BYTES, IMAGE_BYTES)


async def test_a_pull_goes_on_where_the_connection_broke(proxy: Proxy, shelf: Shelf, cache: Cache) -> None:
    proxy.fail("/blobs/", cut(100_000), cut(100_000))
    assert (await get(proxy, shelf, cache)).data == shelf.images[BOARD]
    assert proxy.bytes_sent < 1.1 * IMAGE_BYTES
    assert [each.split()[-1] for each in proxy.seen if "/blobs/" in each] == ["200", "206", "206"]


async def test_a_pull_goes_on_after_the_runner_was_killed(proxy: Proxy, shelf: Shelf, cache: Cache) -> None:
    proxy.fail("/blobs/", *[cut(30_000)] * 5)
    with pytest.raises(Retryable, match="registry"):
        await get(proxy, shelf, cache)
    proxy.bytes_sent = 0
    assert (await get(proxy, shelf, cache)).data == shelf.images[BOARD]
    assert proxy.bytes_sent < IMAGE_BYTES - 100_000


async def test_a_registry_without_ranges_is_asked_for_all(proxy: Proxy, shelf: Shelf, cache: Cache) -> None:
    proxy.fail("/blobs/", cut(100_000), whole)
    assert (await get(proxy, shelf, cache)).data == shelf.images[BOARD]


@pytest.mark.parametrize("where", ["/manifests/", "/blobs/"])
async def test_a_registry_that_is_busy_is_asked_again(where: str, proxy: Proxy, shelf: Shelf, cache: Cache) -> None:
    proxy.fail(where, status(429, Retry_After="0"), status(503))
    assert (await get(proxy, shelf, cache)).data == shelf.images[BOARD]


async def test_a_registry_that_is_busy_for_long_is_left_alone(proxy: Proxy, shelf: Shelf, cache: Cache) -> None:
    proxy.fail("/blobs/", status(429, Retry_After="600"))
    with pytest.raises(Retryable, match="429") as refusal:
        await get(proxy, shelf, cache)
    assert refusal.value.after == 600
    assert len(proxy.seen) == 3


async def test_a_registry_that_says_nothing_more_is_left_after_a_while(
    proxy: Proxy, shelf: Shelf, cache: Cache
) -> None:
    proxy.fail("/blobs/", silent)
    with pytest.raises(Retryable, match=r"not pulled within 0\.5 s"):
        await get(proxy, shelf, cache, limit_seconds=0.5)
    proxy.faults.clear()  # on a slow machine it may not have come to that
    assert (await get(proxy, shelf, cache)).data == shelf.images[BOARD]


async def test_a_registry_that_is_down_can_be_asked_later(shelf: Shelf, cache: Cache, tmp_path: Path) -> None:
    with testbed.Registry(tmp_path / "down") as other:
        other.stop()
        async with Registry(f"{other.host}/{shelf.path}", plain_http=True) as repository:
            with pytest.raises(Retryable, match=f"registry {other.host}"):
                await pull(repository, digest=shelf.digest, board=BOARD, cache=cache)


@pytest.mark.parametrize(
    ("where", "fault"),
    [("/manifests/", altered), ("/blobs/", altered), ("/blobs/", endless)],
)
async def test_something_else_than_the_digest_is_refused(
    where: str, fault: Fault, proxy: Proxy, shelf: Shelf, cache: Cache
) -> None:
    proxy.fail(where, fault)
    with pytest.raises(Terminal, match="sha256:") as refusal:
        await get(proxy, shelf, cache)
    assert refusal.value.reason == "DigestMismatch"
    assert (await get(proxy, shelf, cache)).data == shelf.images[BOARD], "and nothing of it was kept"


async def test_bytes_that_a_power_cut_spoilt_are_pulled_anew(
    proxy: Proxy, shelf: Shelf, cache: Cache, tmp_path: Path
) -> None:
    proxy.fail("/blobs/", *[cut(10_000)] * 5)
    with pytest.raises(Retryable):
        await get(proxy, shelf, cache)
    (part,) = (tmp_path / "cache").glob("*.part")
    part.write_bytes(bytes(part.stat().st_size))
    assert (await get(proxy, shelf, cache)).data == shelf.images[BOARD]


async def test_a_cache_is_not_believed(proxy: Proxy, shelf: Shelf, cache: Cache, tmp_path: Path) -> None:
    await get(proxy, shelf, cache)
    for each in (tmp_path / "cache").iterdir():
        each.write_bytes(each.read_bytes()[:-1])
    assert (await get(proxy, shelf, cache)).data == shelf.images[BOARD]


async def test_a_cache_keeps_what_was_used_last(proxy: Proxy, shelf: Shelf, tmp_path: Path) -> None:
    small = Cache(tmp_path / "small", max_bytes=IMAGE_BYTES + 20_000)
    abandoned = tmp_path / "small" / "sha256-0.part"
    abandoned.write_bytes(bytes(IMAGE_BYTES))
    for board in BOARDS[:3]:
        await get(proxy, shelf, small, board=board)
    held = [each.stat().st_size for each in (tmp_path / "small").iterdir()]
    assert sum(held) <= IMAGE_BYTES + 20_000
    assert not abandoned.exists()
    proxy.seen.clear()
    await get(proxy, shelf, small, board=BOARDS[2])
    assert proxy.seen == []


async def test_a_cache_that_cannot_be_written_is_told(proxy: Proxy, shelf: Shelf, cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "cache").rmdir()
    with pytest.raises(Retryable, match="the cache of images"):
        await get(proxy, shelf, cache)


async def test_a_board_without_an_image_is_refused(proxy: Proxy, shelf: Shelf, cache: Cache) -> None:
    with pytest.raises(Terminal, match="board nrf52840dk") as refusal:
        await get(proxy, shelf, cache, board="nrf52840dk")
    assert refusal.value.reason == "NoSuchBoard"
    assert len(proxy.seen) == 1


async def test_a_tag_that_moves_changes_nothing_of_what_was_resolved(
    registry: testbed.Registry, proxy: Proxy, cache: Cache, path: str
) -> None:
    before = await stock(registry.host, path, tags=("stable",))
    async with Registry(f"{proxy.host}/{path}", plain_http=True) as repository:
        resolved = await resolve(repository, tag="stable")
        after = await stock(registry.host, path, seed=2, tags=("stable",))
        pulled = await pull(repository, digest=resolved.digest, board=BOARD, cache=cache)
        assert (await resolve(repository, tag="stable")).digest == after.digest
    assert pulled.data == before.images[BOARD]


async def test_what_is_not_there_is_not_asked_for_again(proxy: Proxy, shelf: Shelf, cache: Cache) -> None:
    async with Registry(f"{proxy.host}/firmware/nobodys", plain_http=True) as repository:
        with pytest.raises(EdgeError, match="404") as refusal:
            await pull(repository, digest=shelf.digest, board=BOARD, cache=cache)
    assert isinstance(refusal.value, Terminal)
    assert refusal.value.reason == "NotFound"
