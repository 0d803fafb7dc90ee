"""What idle devices could become: computed of catalog, boards and the provider's policy whenever somebody asks.

A potential flavor has the ID that the device's flavor will have once it runs the firmware, so that a contract about it
becomes a contract about the sensor without changing its subject.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from math import ceil
from typing import Any, Final

from crds.boards import normalized
from crds.conditions import parse_timestamp
from crds.models.base import ObjectMeta
from crds.models.firmware import BoardImage, Reference, Release
from crds.models.firmwarerollout import DeviceSelection, FirmwareRollout, FirmwareRolloutSpec
from crds.models.flash_report import FLASHING
from crds.models.fluidos import Flavor
from crds.models.leafdevice import LeafDevice, Sensor, UpdateProtocol
from crds.models.repurposing import (
    AFTERWARDS,
    REPURPOSING_CONFIG_MAP,
    REPURPOSING_KEY,
    Agreed,
    Globs,
    RepurposingPolicy,
    RepurposingRule,
)
from crds.models.trust import Trust
from crds.naming import flavor_name
from crds.remarks import potential
from crds.typedata import FlavorTrust, FlavorView
from edge_resource_manager.domain.flavors import Terms, flavor_of, is_available
from edge_resource_manager.domain.following import Entry, provided
from edge_resource_manager.domain.publication import proven
from edge_resource_manager.domain.reservations import MANAGED_BY
from spire.domain.spiffe_id import TrustDomain

BYTES_PER_SECOND: Final[Mapping[UpdateProtocol, int]] = {
    "MCUmgrUDP": 50_000,
    "MCUmgrSerial": 3_000,
    "MCUmgrBLE": 5_000,
    "NubificusOTA": 50_000,
    "FluidosOTA": 50_000,
    "BlueST": 1_000,
}
"""What may be expected of a link on an ordinary day."""

OVERHEAD_SECONDS: Final = 10
"""To boot, to attest, and to be published."""

NOTHING: Final = RepurposingPolicy.model_validate({"rules": ()})
"""Where a provider opts in to nothing."""

_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Potential:
    """A sensor that a device could have.

    Attributes:
        leaf: the device.
        firmware: name of the Firmware that it would run.
        sensor: as the LeafDevice would have it.
        trust: what the device would have to prove.
        expected_seconds: how long that takes.
        rule: of the provider's policy.
    """

    leaf: LeafDevice
    firmware: str
    sensor: Sensor
    trust: FlavorTrust
    expected_seconds: int
    rule: RepurposingRule

    @property
    def view(self) -> FlavorView:
        """What filters see."""
        return FlavorView(
            sensor=self.sensor,
            board=self.leaf.spec.board,
            node=self.leaf.spec.node_name,
            trust=self.trust,
            repurpose_seconds=self.expected_seconds,
        )

    def flavor_id(self, terms: Terms) -> str:
        """Its name, now and later."""
        return sensor_flavor_id(self.leaf, self.sensor, domain=terms.identity.domain)

    def flavor(self, terms: Terms) -> Flavor:
        """As a buyer sees it: what it will be, and how long that takes."""
        flavor = flavor_of(self.leaf, self.sensor, terms=terms, available=True, trust=self.trust)
        data = flavor.spec.flavor_type.type_data
        marked = {**data, "characteristics": potential(data["characteristics"], self.expected_seconds)}
        kind = flavor.spec.flavor_type.model_copy(update={"type_data": marked})
        # The time of an offer is that of its object, and the device is all that there is of this one.
        dated = flavor.metadata.model_copy(update={"creation_timestamp": self.leaf.metadata.creation_timestamp})
        spec = flavor.spec.model_copy(update={"flavor_type": kind})
        return flavor.model_copy(update={"metadata": dated, "spec": spec})

    @property
    def agreed(self) -> Agreed:
        """What a buyer gets who has as much time as the provider."""
        return Agreed(
            device=self.leaf.metadata.name,
            firmware=self.firmware,
            expected_seconds=self.expected_seconds,
            seconds=self.rule.max_seconds,
            afterwards=self.rule.afterwards,
        )


def sensor_flavor_id(leaf: LeafDevice, sensor: Sensor, *, domain: str) -> str:
    """The name of the flavor of one sensor of a device."""
    return flavor_name(
        domain=domain,
        leaf_namespace=leaf.metadata.namespace or "",
        leaf_name=leaf.metadata.name,
        sensor_uid=sensor.uid,
    )


def parse_policy(config_map: Mapping[str, Any]) -> RepurposingPolicy:
    """Read the ConfigMap `fluidos-edge-repurposing`.

    Raises:
        InvalidField: names the field.
    """
    text = (config_map.get("data") or {}).get(REPURPOSING_KEY, "")
    return RepurposingPolicy.parse_yaml(text, field=f"ConfigMap {REPURPOSING_CONFIG_MAP}, {REPURPOSING_KEY}")


def potentials(
    leaf: LeafDevice,
    catalog: Iterable[Entry],
    *,
    policy: RepurposingPolicy,
    buyer: TrustDomain | None,
    tried: datetime | None,
    now: datetime,
) -> Iterator[Potential]:
    """What may be made of a device that nobody uses, for one buyer.

    Only of one that has proven what it is: nobody could tell whether another one runs what it was given.

    Args:
        leaf: the device.
        catalog: all firmware of its namespace.
        policy: what the provider opts in to.
        buyer: who asks; None where nobody proves anything.
        tried: when it was last tried to make something of it.
        now: for what is proven, and for the cooldown.
    """
    rules = [
        rule for rule in policy.grants if _covers(rule, leaf, buyer) and _is_rested(rule, leaf, tried=tried, now=now)
    ]
    trust = leaf.status.trust if leaf.status else None
    if not rules or trust is None or leaf.spec.ueid is None or leaf.spec.update is None or not is_available(leaf):
        return
    if proven(trust, ueid=leaf.spec.ueid, now=now).tier != "Attested":
        return
    for name, release, image in _newest(leaf, catalog):
        rule = next((each for each in rules if _any(each.applications, release.application)), None)
        expected = expected_seconds(image.size_bytes, protocol=leaf.spec.update.protocol)
        if rule is None or expected > rule.max_seconds or not _may_follow(release, image, trust):
            continue
        promise = FlavorTrust(tier="Attested", application=release.application, firmware=image.measurement)
        for sensor in provided(release, ueid=leaf.spec.ueid).sensors:
            yield Potential(
                leaf=leaf, firmware=name, sensor=sensor, trust=promise, expected_seconds=expected, rule=rule
            )


def expected_seconds(size: int, *, protocol: UpdateProtocol) -> int:
    """How long it takes until a device runs an image of so many bytes, and has proven it."""
    return ceil(size / BYTES_PER_SECOND[protocol]) + OVERHEAD_SECONDS


def runs(leaf: LeafDevice, release: Release) -> bool:
    """Whether a device last proved to run a release."""
    proof = leaf.status.trust.firmware if leaf.status and leaf.status.trust else None
    return proof is not None and any(image.measurement == proof.measurement for image in release.boards)


def rollout(
    name: str,
    *,
    namespace: str | None,
    device: str,
    firmware: str,
    seconds: int | None = None,
    afterwards: str | None = None,
) -> FirmwareRollout:
    """One firmware onto one device.

    Args:
        name: of the rollout.
        namespace: of the device.
        device: LeafDevice.
        firmware: Firmware.
        seconds: how long it may take; as long as it takes, when absent.
        afterwards: the Firmware to bring back later.
    """
    return FirmwareRollout(
        metadata=ObjectMeta(
            name=name,
            namespace=namespace,
            labels=MANAGED_BY,
            annotations={AFTERWARDS: afterwards} if afterwards else {},
        ),
        spec=FirmwareRolloutSpec(
            firmware_ref=Reference(name=firmware),
            devices=DeviceSelection(names=(device,)),
            deadline_seconds=None if seconds is None else max(seconds, 60),
            history_limit=100,
        ),
    )


def is_over(rollout: FirmwareRollout) -> bool:
    """Whether nothing will come of it any more."""
    return rollout.status is not None and rollout.status.finished_time is not None


def failure(rollout: FirmwareRollout) -> str | None:
    """Why a rollout that is over did not do what it should; None where it did, or is not over."""
    if rollout.status is None or not is_over(rollout):
        return None
    device = next(iter(rollout.status.devices), None)
    if device is None:
        return "no device was flashed"
    return None if device.state == "Confirmed" else f"{device.state} ({device.reason}): {device.message}"


def _covers(rule: RepurposingRule, leaf: LeafDevice, buyer: TrustDomain | None) -> bool:
    if "*" not in rule.trust_domains and (buyer is None or buyer.name not in rule.trust_domains):
        return False
    devices, spec = rule.devices, leaf.spec
    return (
        _any(devices.namespaces, leaf.metadata.namespace or "")
        and _any(devices.names, leaf.metadata.name)
        and _any(devices.nodes, spec.node_name)
        and any(fnmatchcase(normalized(spec.board.name), normalized(glob)) for glob in devices.boards)
    )


def _is_rested(rule: RepurposingRule, leaf: LeafDevice, *, tried: datetime | None, now: datetime) -> bool:
    """Since its last flash, of which the condition tells the end, and since the last try."""
    conditions = leaf.status.conditions if leaf.status else ()
    flashed = (parse_timestamp(each.last_transition_time) for each in conditions if each.type == FLASHING)
    return all(now - ended >= timedelta(seconds=rule.cooldown_seconds) for ended in (tried, *flashed) if ended)


def _newest(leaf: LeafDevice, catalog: Iterable[Entry]) -> list[tuple[str, Release, BoardImage]]:
    """Of each application that the device does not run, the newest release that fits its board and can be attested."""
    best: dict[str, tuple[tuple[Any, ...], str, Release, BoardImage]] = {}
    running = leaf.status.trust.application if leaf.status and leaf.status.trust else ""
    for entry in catalog:
        release = entry.current
        if release is None or not entry.ready:
            continue
        image = release.image_for(leaf.spec.board.name)
        if image is None or image.measurement is None or release.application in {"", running}:
            continue
        rank = (image.security_counter or 0, [int(part) for part in _DIGITS.findall(release.version)])
        found = (rank, entry.name, release, image)
        best[release.application] = max(best.get(release.application, found), found, key=lambda each: each[:2])
    return [(name, release, image) for _, (_, name, release, image) in sorted(best.items())]


def _may_follow(release: Release, image: BoardImage, trust: Trust) -> bool:
    """Whether the device's boot layer would take it: its counter never goes back."""
    counter = trust.firmware.security_counter if trust.firmware else None
    return (image.security_counter or release.security_counter or 0) >= (counter or 0)


def _any(globs: Globs, name: str) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
