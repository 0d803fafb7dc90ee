"""The SPIFFE Workload API on one private socket (SPIFFE Workload API, sections 4 to 6): X.509, no JWT.

Who may open the socket is the workload: folder and socket belong to the helper's user alone. gRPC shows no uid of the
caller, so the file's mode is all that stands between users; a pod's containers share a volume and a uid.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, assert_never

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from crds.errors import Terminal
from spire.helper.held import Granted, Held, Latest, Refused, Waiting
from spire.identity import Identity
from spire.proto import workload_pb2 as pb

SERVICE = "SpiffeWorkloadAPI"
_HEADER = ("workload.spiffe.io", "true")
# A workload needs two streams; what is beyond comes from a program that opens them in a loop.
_MAX_CALLS = 32
_MAX_REQUEST = 1024
_STOP_SECONDS = 0.5

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@contextlib.asynccontextmanager
async def serve(path: Path, held: Latest[Held]) -> AsyncIterator[None]:
    """Serve what is held for one workload while the context is open.

    Raises:
        Terminal: the folder is open to others, another helper serves there, or the socket cannot be made.
    """
    _make_way(path)
    server = grpc.aio.server(
        maximum_concurrent_rpcs=_MAX_CALLS, options=[("grpc.max_receive_message_length", _MAX_REQUEST)]
    )
    server.add_generic_rpc_handlers((_service(held),))
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise Terminal(f"{path}: no socket can be made there: {error}") from error
    os.chmod(path, 0o600)
    await server.start()
    try:
        yield
    finally:
        await server.stop(_STOP_SECONDS)


def svid_response(identity: Identity) -> pb.X509SVIDResponse:
    """What a workload hears: its SVID with the roots of its own trust domain, and those of the federated ones."""
    svid = identity.svid
    own = svid.spiffe_id.trust_domain
    return pb.X509SVIDResponse(
        svids=[
            pb.X509SVID(
                spiffe_id=str(svid.spiffe_id),
                x509_svid=b"".join(svid.chain),
                x509_svid_key=svid.key,
                bundle=b"".join(identity.bundles.get(own, ())),
            )
        ],
        federated_bundles={str(domain): b"".join(roots) for domain, roots in identity.bundles.items() if domain != own},
    )


def bundles_response(identity: Identity) -> pb.X509BundlesResponse:
    """What a workload hears that asks for roots only."""
    return pb.X509BundlesResponse(bundles={str(domain): b"".join(roots) for domain, roots in identity.bundles.items()})


def _service(held: Latest[Held]) -> grpc.GenericRpcHandler[Any, Any]:
    # Messages are bytes to gRPC here, so that the header is looked at first and garbage gets our answer.
    streams: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "FetchX509SVID": grpc.unary_stream_rpc_method_handler(_stream(held, pb.X509SVIDRequest, svid_response)),
        "FetchX509Bundles": grpc.unary_stream_rpc_method_handler(
            _stream(held, pb.X509BundlesRequest, bundles_response)
        ),
        "FetchJWTBundles": grpc.unary_stream_rpc_method_handler(_no_jwt),
        "FetchJWTSVID": grpc.unary_unary_rpc_method_handler(_no_jwt),
        "ValidateJWTSVID": grpc.unary_unary_rpc_method_handler(_no_jwt),
    }
    return grpc.method_handlers_generic_handler(SERVICE, streams)


def _stream(
    held: Latest[Held], kind: type[Message], response: Callable[[Identity], Message]
) -> Callable[[bytes, Context], AsyncIterator[bytes]]:
    async def answer(request: bytes, context: Context) -> AsyncIterator[bytes]:
        await _check_header(context)
        try:
            kind.FromString(request)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the request is no {kind.DESCRIPTOR.name}")
        async for state in held.follow():
            match state:
                case Granted(identity):
                    yield response(identity).SerializeToString()
                case Refused(problem):
                    await context.abort(grpc.StatusCode.PERMISSION_DENIED, problem)
                case Waiting():
                    pass
                case _:
                    assert_never(state)

    return answer


async def _no_jwt(_: bytes, context: Context) -> NoReturn:
    await _check_header(context)
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "JWT-SVIDs are not issued here")


async def _check_header(context: Context) -> None:
    """A browser that is tricked into calling a local port cannot send it (Workload API, 4.2)."""
    if _HEADER not in (context.invocation_metadata() or ()):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")


def _make_way(path: Path) -> None:
    """A private folder without a socket in it that somebody left behind."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = path.parent.stat()
    if folder.st_mode & 0o077 or folder.st_uid != os.geteuid():
        said = f"mode {stat.S_IMODE(folder.st_mode):04o} of uid {folder.st_uid}"
        raise Terminal(f"{path.parent}: {said}, expected a folder of mode 0700 of uid {os.geteuid()}")
    if not path.is_socket():
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise Terminal(f"{path}: another helper serves there")
    path.unlink()
