"""How a process comes by its identity: over our Workload API, with the package that others use."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from spiffe import X509Svid
from spiffe.bundle.x509_bundle.x509_bundle_set import X509BundleSet
from spiffe.workloadapi.x509_context import X509Context

from crds.errors import Stopped, Terminal
from crds.kube.process import EgressSettings, settings_of
from spire.helper.api import serve
from spire.helper.held import Granted, Held, Latest, Refused, Waiting
from spire.identity import Identity, IdentitySource
from spire.workload import IdentitySettings, _identity, identity_of
from tests.spire.pki import Ca, bundles_of

A, B = Ca.of("a.test"), Ca.of("b.test")
LIMIT = 60


class Settings(IdentitySettings, EgressSettings):
    """As the processes mix it."""


def settings(
    monkeypatch: pytest.MonkeyPatch, *flags: str, variable: str | None = None, kind: type[IdentitySettings] = Settings
) -> IdentitySettings:
    monkeypatch.setattr(sys, "argv", ["test", *flags])
    monkeypatch.delenv("SPIFFE_ENDPOINT_SOCKET", raising=False)
    if variable is not None:
        monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", variable)
    return settings_of(kind)


async def becomes(source: IdentitySource, wanted: Callable[[Identity], bool]) -> None:
    """Wait until the source has what is wanted."""
    seen = asyncio.Event()
    stop = source.on_change(lambda identity: seen.set() if wanted(identity) else None)
    try:
        if not wanted(source.current):
            async with asyncio.timeout(LIMIT):
                await seen.wait()
    finally:
        stop()


async def told(flags: IdentitySettings, problem: str) -> None:
    """Start without success until this is why: a busy machine may take longer than one start waits."""
    said = None
    async with asyncio.timeout(LIMIT):
        while said is None or problem not in said:
            with pytest.raises(Terminal, match="no identity") as caught:
                async with identity_of(flags):
                    pass
            said = str(caught.value)


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "own" / "workload.sock"


async def test_a_process_that_waits_for_its_first_identity_hears_the_order_to_stop(
    monkeypatch: pytest.MonkeyPatch, socket: Path
) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, stop.set)
    with pytest.raises(Stopped):
        async with identity_of(settings(monkeypatch, f"--identity-socket={socket}"), stop=stop):
            pass


@pytest.mark.parametrize("form", ["{}", "unix:{}", "unix://{}"])
def test_the_socket_comes_by_flag_or_variable_in_any_form(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    said = form.format("/run/x.sock")
    assert settings(monkeypatch, f"--identity-socket={said}").identity_socket == "unix:/run/x.sock"
    assert settings(monkeypatch, variable=said).identity_socket == "unix:/run/x.sock"
    by_flag = settings(monkeypatch, f"--identity-socket={said}", variable="/run/other.sock")
    assert by_flag.identity_socket == "unix:/run/x.sock"


@pytest.mark.parametrize("said", ["tcp://127.0.0.1:80", "run/x.sock", "unix:x.sock", ""])
def test_another_kind_of_socket_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str
) -> None:
    with pytest.raises(SystemExit):
        settings(monkeypatch, f"--identity-socket={said}")
    told = capsys.readouterr().err
    assert "--identity-socket" in told
    assert repr(said) in told
    assert "absolute path" in told


async def test_without_either_flag_a_process_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Terminal, match=r"--identity-socket.*--insecure"):
        async with identity_of(settings(monkeypatch)):
            pass


async def test_insecure_has_no_identity_even_where_one_could_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    async with identity_of(settings(monkeypatch, "--insecure", variable="/run/x.sock")) as source:
        assert source is None


async def test_an_identity_comes_with_all_bundles_and_is_renewed(monkeypatch: pytest.MonkeyPatch, socket: Path) -> None:
    first, second = A.identity("/relay/edge-1", knows=[B]), A.identity("/relay/edge-1")
    held: Latest[Held] = Latest(Granted(first))
    async with serve(socket, held), identity_of(settings(monkeypatch, f"--identity-socket={socket}")) as source:
        assert source is not None
        assert source.current == first
        held.set(Granted(second))
        await becomes(source, lambda identity: identity == second)


async def test_rsa_keys_and_intermediates_as_some_spire_servers_give_them(
    monkeypatch: pytest.MonkeyPatch, socket: Path
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    identity = Identity(svid=A.intermediate().svid("/x", key=key), bundles=bundles_of(A))
    async with (
        serve(socket, Latest[Held](Granted(identity))),
        identity_of(settings(monkeypatch, f"--identity-socket={socket}")) as source,
    ):
        assert source is not None
        assert source.current == identity


async def test_a_workload_api_that_starts_later_is_found(monkeypatch: pytest.MonkeyPatch, socket: Path) -> None:
    identity = A.identity()
    async with AsyncExitStack() as stack:
        opening = asyncio.create_task(
            stack.enter_async_context(identity_of(settings(monkeypatch, f"--identity-socket={socket}")))
        )
        await asyncio.sleep(0.3)
        await stack.enter_async_context(serve(socket, Latest[Held](Granted(identity))))
        async with asyncio.timeout(LIMIT):
            source = await opening
        assert source is not None
        assert source.current == identity


async def test_an_identity_is_kept_over_a_restart_of_the_workload_api_and_then_renewed(
    monkeypatch: pytest.MonkeyPatch, socket: Path
) -> None:
    old, new = A.identity(), A.identity()
    async with AsyncExitStack() as stack:
        async with serve(socket, Latest[Held](Granted(old))):
            flags = settings(monkeypatch, f"--identity-socket={socket}")
            source = await stack.enter_async_context(identity_of(flags))
        assert source is not None
        assert source.current == old
        async with serve(socket, Latest[Held](Granted(new))):
            await becomes(source, lambda identity: identity == new)


@pytest.mark.parametrize(
    ("held", "problem"), [(Refused("not entitled"), "PERMISSION_DENIED"), (Waiting("no issuer"), "no answer")]
)
async def test_an_identity_that_does_not_come_ends_the_process_and_says_why(
    monkeypatch: pytest.MonkeyPatch, socket: Path, held: Held, problem: str
) -> None:
    flags = settings(monkeypatch, f"--identity-socket={socket}", "--identity-wait-seconds=0.5")
    async with serve(socket, Latest(held)):
        await told(flags, problem)


async def test_a_socket_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, socket: Path) -> None:
    flags = settings(monkeypatch, f"--identity-socket={socket}", "--identity-wait-seconds=0.5")
    await told(flags, "does not exist")


def test_of_several_svids_the_one_that_is_known_stays() -> None:
    own, other = A.svid("/own"), A.svid("/other")
    known = Identity(svid=A.svid("/own"), bundles={})
    context = X509Context(
        [X509Svid.parse_raw(b"".join(each.chain), each.key) for each in (other, own)], X509BundleSet(None)
    )
    assert _identity(context, known=None).svid == other
    assert _identity(context, known=known).svid == own
