"""The Lease that makes a device one attempt's own, and in it the report of how far that has come.

The runner is its only writer while it holds it. Managers read it; a Lease that is no longer renewed is the next
attempt's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import structlog

from crds.conditions import parse_timestamp
from crds.errors import Retryable
from crds.kube.client import LEASES, MERGE_PATCH, AlreadyExists, Conflict, Kube, NotFound, Object
from crds.kube.lease import Election, Lost, decide
from crds.kube.queue import backoff
from crds.models.flash_report import REPORT, FlashReport
from crds.models.leafdevice import LeafDevice
from crds.naming import flash_lease_name
from flash_controller.domain.jobs import COMPONENT, RUNNER

log = structlog.get_logger(__name__)

DURATION_SECONDS = 30.0
RENEW_SECONDS = 10.0
CONCLUDE_SECONDS = 120.0
"""How long the end of an attempt waits for an API server that is away."""


class Busy(Retryable):
    """Another attempt has the device."""


def holder_of(rollout_uid: str, attempt: int) -> str:
    """Who an attempt is, as a holder."""
    return f"{rollout_uid}/{attempt}"


def held_by(lease: Object, rollout_uid: str) -> bool:
    """Whether an attempt of this rollout has the device, or had it last without giving it up."""
    return str(lease["spec"].get("holderIdentity") or "").partition("/")[0] == rollout_uid


def held_until(lease: Object) -> datetime | None:
    """Until when whoever has the device keeps it without another word; None where nobody has it."""
    spec = lease["spec"]
    renewed = parse_timestamp(spec.get("renewTime") or "")
    if not spec.get("holderIdentity") or renewed is None:
        return None
    return renewed + timedelta(seconds=spec.get("leaseDurationSeconds") or 0)


def report_of(lease: Object) -> FlashReport | None:
    """The last report in a Lease, or None where there is none that can be read."""
    text = (lease["metadata"].get("annotations") or {}).get(REPORT)
    if text is None:
        return None
    try:
        return FlashReport.model_validate_json(text, by_alias=True, by_name=False)
    except ValueError as error:
        log.warning("report not readable", lease=lease["metadata"]["name"], error=str(error))
        return None


class DeviceLease:
    """A device, for one attempt.

    Args:
        kube: the API server.
        namespace: of the device.
        device: name of its LeafDevice.
        holder: see `holder_of`.
        clock: now, in UTC.
        renew: seconds after which it is renewed though there is nothing to say.
    """

    def __init__(
        self,
        kube: Kube,
        *,
        namespace: str,
        device: str,
        holder: str,
        clock: Callable[[], datetime],
        renew: float = RENEW_SECONDS,
    ) -> None:
        self._kube = kube
        self._clock = clock
        self._election = Election(
            name=flash_lease_name(device), namespace=namespace, identity=holder, duration=DURATION_SECONDS, renew=renew
        )
        self._path = LEASES.path(namespace=namespace, name=self._election.name)
        self._owners: list[dict[str, Any]] = []
        self._version: str | None = None
        self._said: FlashReport | None = None
        self._written: FlashReport | None = None
        self._writing = asyncio.Lock()

    async def acquire(self, report: FlashReport) -> FlashReport | None:
        """Take the device, with a first report.

        Returns:
            The report of the attempt before this one, if there was any.

        Raises:
            Busy: another attempt has it.
            Retryable: the API server is away.
        """
        try:
            lease: Object | None = await self._kube.request("GET", self._path)
        except NotFound:
            lease = None
        # An earlier attempt of the same rollout has ended, whatever it left behind: else there would be no other.
        held = lease and not held_by(lease, self._election.identity.partition("/")[0])
        spec = decide(lease if held else None, election=self._election, now=self._clock())
        if spec is None:
            raise Busy(f"Lease {self._election.name}: another attempt has the device", after=RENEW_SECONDS)
        self._said = report
        try:
            await self._write(spec, version=lease["metadata"]["resourceVersion"] if lease else None)
        except (AlreadyExists, Conflict) as error:
            raise Busy(f"Lease {self._election.name}: another attempt was faster", after=RENEW_SECONDS) from error
        return report_of(lease) if lease else None

    def belong_to(self, device: LeafDevice) -> None:
        """Have the Lease go with its device; the next write says it."""
        meta, crd = device.metadata, device.crd
        self._owners = [{"apiVersion": crd.api_version, "kind": crd.kind, "name": meta.name, "uid": meta.uid}]

    async def say(self, report: FlashReport) -> None:
        """Report. What is no news but bytes waits for the next renewal; so does what cannot be written now.

        Raises:
            Lost: another attempt has the device.
        """
        self._said = report
        if self._written is None or self._written.state != report.state:
            try:
                await self._renew_now()
            except Retryable as error:
                log.warning("report waits", lease=self._election.name, error=str(error))

    def note(self, report: FlashReport) -> None:
        """What the next renewal says."""
        self._said = report

    async def hold(self) -> None:
        """Renew for ever. While the API server is away nobody can take the device: the work goes on.

        Raises:
            Lost: another attempt has the device.
        """
        while True:
            await asyncio.sleep(self._election.renew)
            try:
                await self._renew_now()
            except Retryable as error:
                log.warning("lease not renewed", lease=self._election.name, error=str(error))

    async def conclude(self, report: FlashReport) -> None:
        """Say how it ended and give the device up, in one write.

        Raises:
            Lost: another attempt has the device.
            Retryable: the API server stays away.
        """
        self._said = report
        loop, failures = asyncio.get_running_loop(), 0
        until = loop.time() + CONCLUDE_SECONDS
        while True:
            try:
                return await self._renew_now(give_up=True)
            except Retryable:
                failures += 1
                pause = backoff(failures)
                if loop.time() + pause > until:
                    raise
                await asyncio.sleep(pause)

    async def _renew_now(self, *, give_up: bool = False) -> None:
        async with self._writing:
            spec: dict[str, Any] = {"renewTime": self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
            if give_up:
                spec["holderIdentity"] = None
            try:
                await self._write(spec, version=self._version)
            except (Conflict, NotFound):
                # Somebody else wrote: another attempt, or a label; or the answer to our last write was lost.
                lease = await self._read()
                if lease["spec"].get("holderIdentity") == self._election.identity:
                    await self._write(spec, version=lease["metadata"]["resourceVersion"])
                elif report_of(lease) != self._said:
                    raise Lost(self._election.name) from None

    async def _read(self) -> Object:
        try:
            return await self._kube.request("GET", self._path)
        except NotFound:
            raise Lost(self._election.name) from None

    async def _write(self, spec: dict[str, Any], *, version: str | None) -> None:
        report = self._said
        assert report is not None  # noqa: S101 - `acquire` has set it
        metadata: dict[str, Any] = {
            "name": self._election.name,
            "namespace": self._election.namespace,
            "labels": {COMPONENT: RUNNER},
            "annotations": {REPORT: orjson.dumps(report.dump()).decode()},
            **({"ownerReferences": self._owners} if self._owners else {}),
        }
        if version is None:
            body = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": metadata, "spec": spec}
            lease = await self._kube.request("POST", LEASES.path(namespace=self._election.namespace), body=body)
        else:
            body = {"metadata": {**metadata, "resourceVersion": version}, "spec": spec}
            lease = await self._kube.request("PATCH", self._path, body=body, content_type=MERGE_PATCH)
        self._version, self._written = lease["metadata"]["resourceVersion"], report
