"""The CredentialComposer and the bindings that it reads, driven as SPIRE drives it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import orjson
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crds.errors import InvalidField
from spire.domain.errors import Untrusted
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.plugins.bindings import Bindings
from spire.proto import spire_pb2 as pb
from tests.spire.plugins.host import COMPOSER, Hosted, hosted
from tests.spire.support import Device, device

DOMAIN = TrustDomain("devices.test")


def agent(one: Device) -> SpiffeId:
    return DOMAIN.spiffe_id("spire", "agent", "dice", str(one.claims.ueid))


def spki(one: Device) -> bytes:
    return one.claims.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


async def compose(plugin: Hosted, spiffe_id: SpiffeId, key: bytes, *, kind: str = "Agent") -> str:
    request = pb.ComposeX509SvidRequest(spiffe_id=str(spiffe_id), public_key=key)
    request.attributes.subject.common_name = "whatever the request said"
    answer = await plugin.call(f"{COMPOSER}/Compose{kind}X509SVID", request, pb.ComposeX509SvidResponse)
    return str(answer.attributes.subject.common_name)


async def test_a_certificate_is_made_for_the_key_that_evidence_named_and_for_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "bindings"
    one, other = device("device 1"), device("device 2")
    Bindings(folder).bind(agent(one), key=one.claims.key, ueid=one.claims.ueid)
    async with hosted("composer", kind="CredentialComposer", temporary=tmp_path) as plugin:
        await plugin.configure(orjson.dumps({"bindings": str(folder)}).decode())
        for kind in ("Agent", "Workload"):
            assert await compose(plugin, agent(one), spki(one), kind=kind) == str(one.claims.ueid)
            with pytest.raises(grpc.aio.AioRpcError, match="names another key"):
                await compose(plugin, agent(one), spki(other), kind=kind)
        with pytest.raises(grpc.aio.AioRpcError, match="no evidence"):
            await compose(plugin, agent(other), spki(other))
        with pytest.raises(grpc.aio.AioRpcError, match="no evidence"):
            await compose(plugin, DOMAIN.spiffe_id("device", "01", "app", "thermo"), spki(one))


async def test_ids_that_are_no_devices_are_left_as_spire_made_them(tmp_path: Path) -> None:
    async with hosted("composer", kind="CredentialComposer", temporary=tmp_path) as plugin:
        await plugin.configure(orjson.dumps({"bindings": str(tmp_path / "bindings")}).decode())
        manager = DOMAIN.spiffe_id("manager", "rear-gateway")
        assert await compose(plugin, manager, b"any") == "whatever the request said"


async def test_a_composer_that_was_never_configured_signs_nothing_for_devices(tmp_path: Path) -> None:
    one = device()
    async with hosted("composer", kind="CredentialComposer", temporary=tmp_path) as plugin:
        with pytest.raises(grpc.aio.AioRpcError, match="not configured"):
            await compose(plugin, agent(one), spki(one))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "plugin_data_file"),
        ('bindings = "/x"', "plugin_data_file"),
        ("[]", "plugin_data_file"),
        ("{}", "bindings"),
        ('{"bindings": "relative/../../etc", "maxAgeSeconds": 0}', "maxAgeSeconds"),
        ('{"bindings": "/proc/nowhere"}', "bindings"),
    ],
)
async def test_a_wrong_configuration_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    async with hosted("composer", kind="CredentialComposer", temporary=tmp_path) as plugin:
        with pytest.raises(grpc.aio.AioRpcError, match=named) as refused:
            await plugin.configure(text)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        answer = await plugin.validate(text)
        assert not answer.valid
        assert named in answer.notes[0]


def test_evidence_is_good_for_a_time(tmp_path: Path) -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    bindings = Bindings(tmp_path / "b", clock=lambda: now)
    one = device()
    bindings.bind(agent(one), key=one.claims.key, ueid=one.claims.ueid)
    hour = timedelta(hours=1)
    assert bindings.check(agent(one), public_key=spki(one), max_age=hour) == one.claims.ueid
    now += timedelta(hours=1, seconds=1)
    with pytest.raises(Untrusted, match="3601 s old"):
        bindings.check(agent(one), public_key=spki(one), max_age=hour)
    now -= timedelta(hours=2)  # the clock was set back
    with pytest.raises(Untrusted, match="s old"):
        bindings.check(agent(one), public_key=spki(one), max_age=hour)


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    with pytest.raises(InvalidField, match="mode 0700"):
        Bindings(folder)


def test_half_a_file_is_no_evidence(tmp_path: Path) -> None:
    bindings = Bindings(tmp_path / "b")
    one = device()
    bindings.bind(agent(one), key=one.claims.key, ueid=one.claims.ueid)
    for file in (tmp_path / "b").iterdir():
        file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(Untrusted, match="no evidence"):
        bindings.check(agent(one), public_key=spki(one), max_age=timedelta(hours=1))
