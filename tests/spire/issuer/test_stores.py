"""What the issuer must not lose, and must never have twice."""

import asyncio
import stat
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crds.errors import InvalidField, Retryable, Terminal
from crds.kube.client import Kube
from scripts.testbed.cluster import Cluster
from spire.domain.spiffe_id import TrustDomain
from spire.issuer.authority import EmbeddedAuthority
from spire.issuer.store import Changed, FileStore, SecretStore, Store, locked

HERE = TrustDomain("a.example")
LIFE = timedelta(days=6)
REPOSITORY = Path(__file__).resolve().parent.parent.parent.parent


class Clock:
    """A time that can be moved."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Cut:
    """A store whose n-th call fails: before it has done anything, or after, so that nobody learns that it has."""

    def __init__(self, store: Store, *, at: int, after: bool) -> None:
        self._store = store
        self._left = at
        self._after = after

    async def load(self) -> bytes | None:
        self._call()
        return await self._store.load()

    async def save(self, document: bytes) -> None:
        cut = self._call(spare=self._after)
        await self._store.save(document)
        if cut:
            raise Retryable("cut")

    def _call(self, *, spare: bool = False) -> bool:
        self._left -= 1
        if self._left == 0 and not spare:
            raise Retryable("cut")
        return self._left == 0


@pytest.fixture(scope="module")
async def kube(cluster: Cluster) -> AsyncIterator[Kube]:
    async with await Kube.connect(kubeconfig=cluster.kubeconfig) as connected:
        yield connected


@pytest.fixture
def secret(kube: Kube, namespace: str) -> tuple[Kube, str]:
    """Where a Secret may be made."""
    return kube, namespace


def _secret_store(secret: tuple[Kube, str]) -> SecretStore:
    return SecretStore(secret[0], namespace=secret[1], name="authority")


async def _opened(store: Store, clock: Clock | None = None) -> EmbeddedAuthority:
    return await EmbeddedAuthority.open(store, trust_domain=HERE, lifetime=LIFE, clock=clock or Clock())


def test_whoever_dies_at_any_step_of_the_file_system_leaves_one_authority_and_its_peers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.spire.issuer.dying", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.splitlines()[-1]) > 10  # so many steps there were


async def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    with locked(tmp_path / "state"):
        await _opened(FileStore(tmp_path / "state" / "authority.json"))
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "state").iterdir()} == {0o600}


def test_a_directory_is_for_one_process(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(Terminal, match="another issuer works on it"), locked(tmp_path):
        pytest.fail("two have it")
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("document", [b"", b"{}", b"\x00" * 100, b'{"trustDomain": "a.example"}'])
async def test_a_damaged_store_is_an_error_and_never_a_new_authority(tmp_path: Path, document: bytes) -> None:
    path = tmp_path / "authority.json"
    path.write_bytes(document)
    with pytest.raises(InvalidField, match="authority"):
        await _opened(FileStore(path))
    assert path.read_bytes() == document


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, 6))
async def test_an_authority_is_the_same_wherever_its_secret_was_cut_off(
    secret: tuple[Kube, str], at: int, after: bool
) -> None:
    clock = Clock()
    store = Cut(_secret_store(secret), at=at, after=after)
    published: set[bytes] = set()
    try:
        authority = await _opened(store, clock)
        published.update(authority.bundle.roots)
        clock.ahead = LIFE / 2 + timedelta(minutes=1)
        await authority.look()
        published.update(authority.bundle.roots)
    except Retryable:
        pass
    clock.ahead = timedelta()
    successor = await _opened(_secret_store(secret), clock)
    assert published <= set(successor.bundle.roots)
    again = await _opened(_secret_store(secret), clock)
    assert again.bundle == successor.bundle


async def test_two_that_begin_at_once_have_one_authority(secret: tuple[Kube, str]) -> None:
    opened = await asyncio.gather(*(_opened(_secret_store(secret)) for _ in range(8)))
    assert len({each.bundle.roots for each in opened}) == 1
    assert opened[0].bundle.sequence == 1


async def test_two_that_rotate_at_once_have_one_successor(secret: tuple[Kube, str]) -> None:
    clock = Clock()
    first, second = await _opened(_secret_store(secret), clock), await _opened(_secret_store(secret), clock)
    clock.ahead = LIFE / 2 + timedelta(minutes=1)
    await asyncio.gather(first.look(), second.look())
    await asyncio.gather(first.look(), second.look())
    assert first.bundle == second.bundle
    assert (len(first.bundle.roots), first.bundle.sequence) == (2, 2)


async def test_who_has_not_seen_the_newest_does_not_write_over_it(secret: tuple[Kube, str], tmp_path: Path) -> None:
    mine, theirs = _secret_store(secret), _secret_store(secret)
    assert await mine.load() is None
    assert await theirs.load() is None
    await mine.save(b"1")
    with pytest.raises(Changed):
        await theirs.save(b"2")
    assert await theirs.load() == b"1"
    await theirs.save(b"3")
    with pytest.raises(Changed):
        await mine.save(b"4")
    assert await _secret_store(secret).load() == b"3"


async def test_a_secret_that_somebody_deleted_is_written_again(secret: tuple[Kube, str]) -> None:
    authority = await _opened(_secret_store(secret))
    before = authority.bundle
    await secret[0].request("DELETE", f"/api/v1/namespaces/{secret[1]}/secrets/authority")
    await authority.look()
    assert authority.bundle == before
    assert (await _opened(_secret_store(secret))).bundle == before


async def test_a_backup_that_was_put_back_takes_no_authority_away(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "authority.json"
    authority = await _opened(FileStore(path), clock)
    backup = path.read_bytes()
    clock.ahead = LIFE / 2 + timedelta(minutes=1)
    await authority.look()
    path.write_bytes(backup)
    await authority.look()
    assert len(authority.bundle.roots) == 2
    assert (await _opened(FileStore(path), clock)).bundle == authority.bundle


async def test_a_store_that_is_away_leaves_the_authority_at_work(tmp_path: Path) -> None:
    clock = Clock()
    store = Cut(FileStore(tmp_path / "authority.json"), at=3, after=False)
    authority = await _opened(store, clock)
    before = authority.bundle
    clock.ahead = LIFE / 2 + timedelta(minutes=1)
    with pytest.raises(Retryable):
        await authority.look()
    assert authority.bundle == before
    await authority.look()
    assert len(authority.bundle.roots) == 2


async def test_a_secret_that_is_not_ours_is_an_error(secret: tuple[Kube, str]) -> None:
    name = f"s-{uuid.uuid4().hex[:8]}"
    body = {"metadata": {"name": name}, "data": {"tls.key": "eA=="}}
    await secret[0].request("POST", f"/api/v1/namespaces/{secret[1]}/secrets", body=body)
    with pytest.raises(Terminal, match="no readable data"):
        await SecretStore(secret[0], namespace=secret[1], name=name).load()
