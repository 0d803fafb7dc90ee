"""The Workload API that the helper serves, as clients of others and as hostile ones see it."""

from __future__ import annotations

import asyncio
import os
import socket as sockets
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import WorkloadApiClient, X509Source
from spiffe.workloadapi.errors import FetchJwtBundleError, FetchJwtSvidError

from crds.errors import Terminal
from spire.helper.api import serve
from spire.helper.held import Granted, Held, Latest, Refused, Waiting
from spire.proto import workload_pb2 as pb
from tests.spire.pki import Ca

A, B = Ca.of("a.test"), Ca.of("b.test")
FIRST, SECOND = A.identity("/relay/edge-1", knows=[B]), A.identity("/relay/edge-1", knows=[B])
HEADER = (("workload.spiffe.io", "true"),)
LIMIT = 60
METHODS = ["FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles", "FetchJWTSVID", "ValidateJWTSVID"]


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "own" / "workload.sock"


@asynccontextmanager
async def channel(socket: Path) -> AsyncIterator[Callable[..., Any]]:
    """Calls a method with bytes as they are."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as opened:

        def call(method: str, request: bytes = b"", metadata: Any = HEADER, timeout: float = LIMIT) -> Any:
            stream = opened.unary_stream(f"/SpiffeWorkloadAPI/{method}", None, None)
            return stream(request, metadata=metadata, timeout=timeout)

        yield call


async def status(call: Any) -> grpc.StatusCode:
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def leaf_of(answer: bytes) -> bytes:
    return pb.X509SVIDResponse.FromString(answer).svids[0].x509_svid


async def test_the_spiffe_package_fetches_svid_and_bundles(socket: Path) -> None:
    async with serve(socket, Latest[Held](Granted(FIRST))):

        def fetch() -> tuple[Any, Any, Any]:
            with WorkloadApiClient(f"unix:{socket}") as client:
                return (
                    client.fetch_x509_svid(timeout=LIMIT),
                    client.fetch_x509_bundles(timeout=LIMIT),
                    client.fetch_x509_context(timeout=LIMIT),
                )

        svid, bundles, context = await asyncio.to_thread(fetch)
    assert str(svid.spiffe_id) == "spiffe://a.test/relay/edge-1"
    assert svid.leaf.public_bytes(Encoding.DER) == FIRST.svid.chain[0]
    for said in (bundles, context.x509_bundle_set):
        found = {
            bundle.trust_domain.name: {root.public_bytes(Encoding.DER) for root in bundle.x509_authorities}
            for bundle in said.bundles
        }
        assert found == {"a.test": {A.root}, "b.test": {B.root}}


async def test_the_spiffe_package_follows_a_rotation(socket: Path) -> None:
    held = Latest[Held](Granted(FIRST))
    async with serve(socket, held):

        def follow(loop: asyncio.AbstractEventLoop) -> bytes:
            with X509Source(socket_path=f"unix:{socket}", timeout_in_seconds=LIMIT) as source:
                changed = threading.Event()
                source.subscribe_for_updates(changed.set)
                loop.call_soon_threadsafe(held.set, Granted(SECOND))
                assert changed.wait(LIMIT)
                return source.get_x509_context().default_svid.leaf.public_bytes(Encoding.DER)

        leaf = await asyncio.to_thread(follow, asyncio.get_running_loop())
    assert leaf == SECOND.svid.chain[0]


async def test_jwt_is_declined_in_words_that_the_package_understands(socket: Path) -> None:
    async with serve(socket, Latest[Held](Granted(FIRST))):

        def fetch() -> None:
            with WorkloadApiClient(f"unix:{socket}") as client:
                with pytest.raises(FetchJwtSvidError, match="not issued here"):
                    client.fetch_jwt_svid({"audience"}, timeout=LIMIT)
                with pytest.raises(FetchJwtBundleError, match="not issued here"):
                    client.fetch_jwt_bundles(timeout=LIMIT)

        await asyncio.to_thread(fetch)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("metadata", [(), (("workload.spiffe.io", "false"),), (("workload-spiffe-io", "true"),)])
async def test_a_caller_without_the_header_gets_nothing(socket: Path, method: str, metadata: Any) -> None:
    async with serve(socket, Latest[Held](Granted(FIRST))), channel(socket) as call:
        assert await status(call(method, metadata=metadata)) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", METHODS)
async def test_jwt_is_unimplemented_and_garbage_an_invalid_argument(socket: Path, method: str) -> None:
    async with serve(socket, Latest[Held](Granted(FIRST))), channel(socket) as call:
        expected = grpc.StatusCode.UNIMPLEMENTED if "JWT" in method else grpc.StatusCode.INVALID_ARGUMENT
        assert await status(call(method, b"\xff\xff\xff")) is expected
        assert await status(call(method, bytes(100_000))) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_who_is_refused_is_told_why_and_who_waits_is_served_when_it_comes(socket: Path) -> None:
    held = Latest[Held](Waiting("no issuer"))
    async with serve(socket, held), channel(socket) as call:
        waiting = call("FetchX509SVID")
        held.set(Granted(FIRST))
        first = pb.X509SVIDResponse.FromString(await waiting.read())
        assert first.svids[0].spiffe_id == "spiffe://a.test/relay/edge-1"
        held.set(Refused("the account is not entitled"))
        with pytest.raises(grpc.aio.AioRpcError, match="the account is not entitled") as refused:
            await waiting.read()
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_callers_are_bounded_and_those_before_are_served_on(socket: Path) -> None:
    held = Latest[Held](Granted(FIRST))
    async with serve(socket, held), channel(socket) as call:
        first = call("FetchX509SVID")
        await first.read()
        many = [call("FetchX509Bundles") for _ in range(100)]
        ends = [asyncio.create_task(each.read()) for each in many]
        answers = await asyncio.gather(*ends, return_exceptions=True)
        refused = [each for each in answers if isinstance(each, grpc.aio.AioRpcError)]
        assert 0 < len(refused) < len(many)
        assert {each.code() for each in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        held.set(Granted(SECOND))
        assert leaf_of(await first.read()) == SECOND.svid.chain[0]


async def test_a_client_that_does_not_read_holds_up_nobody_and_gets_the_newest(socket: Path) -> None:
    # Each answer is larger than what gRPC sends ahead of a reader.
    large = {A.trust_domain: (A.root,), B.trust_domain: (B.root,) * 1000}
    identities = [replace(A.identity(), bundles=large) for _ in range(20)]
    held = Latest[Held](Granted(FIRST))
    async with serve(socket, held), channel(socket) as slow, channel(socket) as quick:
        stuck, live = slow("FetchX509SVID"), quick("FetchX509SVID")
        await stuck.read()
        await live.read()
        for identity in identities:
            held.set(Granted(identity))
            assert leaf_of(await live.read()) == identity.svid.chain[0]
        late = 1
        while leaf_of(await stuck.read()) != identities[-1].svid.chain[0]:
            late += 1
        assert late < len(identities)


async def test_socket_and_folder_are_for_the_own_user_alone(socket: Path) -> None:
    async with serve(socket, Latest[Held](Granted(FIRST))):
        assert stat.S_IMODE(os.stat(socket).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(socket.parent).st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="to become another user one must be root")
async def test_another_user_cannot_connect(socket: Path) -> None:
    async with serve(socket, Latest[Held](Granted(FIRST))):
        pid = os.fork()
        if pid == 0:  # nothing but system calls, and no way back into the tests
            code = 1
            try:
                os.setuid(65534)
                sockets.socket(sockets.AF_UNIX).connect(str(socket))
            except PermissionError:
                code = 0
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0


async def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    os.mkdir(tmp_path / "shared", 0o750)
    with pytest.raises(Terminal, match="0700"):
        async with serve(tmp_path / "shared" / "workload.sock", Latest[Held](Granted(FIRST))):
            pass


async def test_a_socket_that_was_left_behind_is_replaced_and_a_living_one_is_not(socket: Path) -> None:
    socket.parent.mkdir(mode=0o700)
    with sockets.socket(sockets.AF_UNIX) as left:
        left.bind(str(socket))
    async with serve(socket, Latest[Held](Granted(FIRST))), channel(socket) as call:
        assert await call("FetchX509SVID").read()
        with pytest.raises(Terminal, match="another helper"):
            async with serve(socket, Latest[Held](Granted(SECOND))):
                pass
        assert await call("FetchX509SVID").read()
