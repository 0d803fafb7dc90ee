"""SPIRE as its plug-ins see it: starts a process as go-plugin does, reads its one line, and calls it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from spire.proto import spire_pb2 as pb

START_SECONDS = 30
STOP_SECONDS = 10
CONFIG = "spire.service.common.config.v1.Config"
ATTEST = "/spire.plugin.server.nodeattestor.v1.NodeAttestor/Attest"
AID = "/spire.plugin.agent.nodeattestor.v1.NodeAttestor/AidAttestation"
COMPOSER = "spire.plugin.server.credentialcomposer.v1.CredentialComposer"


@dataclass
class Hosted:
    """A plug-in that runs."""

    process: asyncio.subprocess.Process
    handshake: str
    channel: grpc.aio.Channel
    services: list[str]

    async def call(self, method: str, request: Any, answer: Any) -> Any:
        call = self.channel.unary_unary(
            f"/{method}", request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
        )
        return await call(request, timeout=20)

    async def configure(self, text: str, *, trust_domain: str = "devices.test") -> None:
        await self.call(f"{CONFIG}/Configure", _configuration(text, trust_domain), pb.Empty)

    async def validate(self, text: str, *, trust_domain: str = "devices.test") -> Any:
        return await self.call(f"{CONFIG}/Validate", _configuration(text, trust_domain), pb.ValidateResponse)

    def attest(self) -> grpc.aio.StreamStreamCall[Any, Any]:
        method = self.channel.stream_stream(
            ATTEST,
            request_serializer=pb.AttestRequest.SerializeToString,
            response_deserializer=pb.AttestResponse.FromString,
        )
        return method(None, timeout=60)

    def aid(self) -> grpc.aio.StreamStreamCall[Any, Any]:
        method = self.channel.stream_stream(
            AID,
            request_serializer=pb.Challenge.SerializeToString,
            response_deserializer=pb.PayloadOrChallengeResponse.FromString,
        )
        return method(None, timeout=60)

    async def shut_down(self) -> int:
        await self.call("plugin.GRPCController/Shutdown", pb.Empty(), pb.Empty)
        async with asyncio.timeout(STOP_SECONDS):
            return await self.process.wait()


@asynccontextmanager
async def hosted(plugin: str, *, kind: str, temporary: Path) -> AsyncIterator[Hosted]:
    """Start a plug-in; end it at the end if the test has not."""
    environment = {
        **os.environ,
        kind: kind,
        "PLUGIN_PROTOCOL_VERSIONS": "1",
        "PLUGIN_MIN_PORT": "0",
        "PLUGIN_MAX_PORT": "0",
        "TMPDIR": str(temporary),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "spire.plugins", plugin, env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            handshake = (await process.stdout.readline()).decode()
        channel = grpc.aio.insecure_channel(
            f"unix:{handshake.split('|')[3]}", options=[("grpc.default_authority", "localhost")]
        )
        broker = channel.stream_stream(
            "/plugin.GRPCBroker/StartStream",
            request_serializer=pb.ConnInfo.SerializeToString,
            response_deserializer=pb.ConnInfo.FromString,
        )(None)
        await broker.write(pb.ConnInfo(service_id=1, network="unix", address="/nowhere"))
        hosted_plugin = Hosted(process, handshake, channel, [])
        answer = await hosted_plugin.call("spire.service.private.init.v1.Init/Init", pb.InitRequest(), pb.InitResponse)
        hosted_plugin.services = list(answer.plugin_service_names)
        yield hosted_plugin
        broker.cancel()
        await channel.close(None)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _configuration(text: str, trust_domain: str) -> Any:
    return pb.ConfigureRequest(
        core_configuration=pb.CoreConfiguration(trust_domain=trust_domain), hcl_configuration=text
    )
