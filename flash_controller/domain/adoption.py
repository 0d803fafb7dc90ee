"""Orders that others' kinds give, in our words: FlashJobs of Nubificus, firmwareJobSpecs of Akri.

Both know devices by Akri Instances, which come and go with every restart of a device. A LeafDevice does not: it is
found once, by the address that its Instance has, and then counts by name.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import orjson

from crds.conditions import Verdict, stamp
from crds.errors import InvalidField
from crds.models.akri import Configuration, Instance
from crds.models.base import ObjectMeta, validate
from crds.models.firmware import Firmware, FirmwareSpec, Reference
from crds.models.firmwarerollout import DeviceSelection, FirmwareRollout, FirmwareRolloutSpec, Strategy
from crds.models.flashjob import FlashJob, FlashJobStatus
from crds.models.leafdevice import LeafDevice
from crds.naming import adopted_job_name, adopted_name
from flash_controller.domain.versions import Version

DEVICES: Final = "edge.fluidos.eu/flash-job-devices"
"""On a rollout: JSON, LeafDevices by the UUIDs of its FlashJob."""
CONFIGURATION: Final = "edge.fluidos.eu/akri-configuration"
"""On a rollout: UID and generation of the Configuration that it was made for."""
OVER: Final = "Over"
"""Condition of a FlashJob: nothing more is done for it until it is changed."""
PLACEHOLDER: Final = "{{PLACEHOLDER}}"
_ENVIRONMENT: Final = ("HOST_ENDPOINT", "DEVICE", "APPLICATION_TYPE")

_REFERENCE = re.compile(
    r"(?P<repository>[^@]+?)(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]*))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of a LeafDevice here.

    Attributes:
        name: of the LeafDevice.
        uid: of it.
        hosts: by which an Instance may mean it.
        proves: it can prove what it runs.
    """

    name: str
    uid: str
    hosts: frozenset[str]
    proves: bool


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be there, both in one namespace."""

    firmware: Firmware
    rollout: FirmwareRollout


@dataclass(frozen=True, slots=True)
class Ours:
    """A firmwareJobSpec that names firmware and no image: our runner does it."""

    firmware: str
    version: str


@dataclass(frozen=True, slots=True)
class Theirs:
    """A firmwareJobSpec that names an image: it is run as it is."""

    job: Mapping[str, Any]
    version: str


def place_of(leaf: LeafDevice) -> Place:
    """A LeafDevice, by what Instances and FlashJobs may call it."""
    addresses = (leaf.spec.update.address if leaf.spec.update else "", leaf.spec.link.address)
    hosts = {name for address in addresses for name in (address, address.rpartition(":")[0]) if name}
    return Place(leaf.metadata.name, leaf.metadata.uid or "", frozenset(hosts), proves=leaf.spec.ueid is not None)


def place_at(instance: Instance, places: Iterable[Place]) -> Place | None:
    """The LeafDevice that an Instance is."""
    host = (instance.spec.broker_properties or {}).get("HOST_ENDPOINT")
    return next((place for place in places if host in place.hosts), None)


def firmware_spec(reference: str, *, plain_http: Iterable[str]) -> FirmwareSpec:
    """What an image's reference means, as Docker reads it.

    Args:
        reference: `registry/path:tag`, or with `@digest`.
        plain_http: registries that are asked without TLS.

    Raises:
        InvalidField: it is none.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise InvalidField(field="firmware", value=reference, expected="registry/path:tag or registry/path@sha256:...")
    first, slash, rest = found["repository"].partition("/")
    if not slash or not (set(".:") & set(first) or first == "localhost"):
        first, rest = "docker.io", found["repository"] if slash else f"library/{first}"
    spec = {
        "repository": f"{first}/{rest}",
        "plainHTTP": first in set(plain_http),
        **({"digest": found["digest"]} if found["digest"] else {"tag": found["tag"] or "latest"}),
    }
    return validate(FirmwareSpec, spec, field="firmware")


def flash_job_order(
    job: FlashJob, *, instances: Iterable[Instance], places: Iterable[Place], plain_http: Iterable[str]
) -> Order:
    """What a FlashJob asks for: this firmware on these devices, newer or not, and one failure stops no other.

    Raises:
        InvalidField: names a UUID that is no device yet, or what else is wrong.
    """
    known = list(places)
    by_uid = {place.uid: place for place in known}
    by_uid |= {each.metadata.uid or "": place for each in instances if (place := place_at(each, known))}
    devices: dict[str, Place] = {}
    for number, uuid in enumerate(job.spec.uuid):
        if uuid not in by_uid:
            expected = "the UID of an Akri Instance whose HOST_ENDPOINT a LeafDevice has, or of a LeafDevice"
            raise InvalidField(field=f"spec.uuid[{number}]", value=uuid, expected=expected)
        devices[uuid] = by_uid[uuid]
    names = {uuid: place.name for uuid, place in devices.items()}
    return _order(
        job.spec.firmware,
        namespace=job.metadata.namespace or "",
        name=flash_job_rollout(job),
        owner=job,
        annotations={DEVICES: orjson.dumps(names).decode()},
        places=tuple(dict.fromkeys(devices.values())),
        policy="Always",
        plain_http=plain_http,
    )


def flash_job_rollout(job: FlashJob) -> str:
    """Name of the rollout that a FlashJob, as it is written now, is carried out by."""
    return adopted_name(job.metadata.name, "FlashJob", job.metadata.uid or "", str(job.metadata.generation))


def outdated(rollout: FirmwareRollout, order: Order) -> bool:
    """Whether a rollout does what its owner wants no more, as it is written now: other firmware on the same devices."""
    now, status = order.rollout, rollout.status
    return (
        rollout.metadata.namespace == now.metadata.namespace
        and {each.uid for each in rollout.metadata.owner_references}
        == {each.uid for each in now.metadata.owner_references}
        and rollout.spec.desired == "Run"
        and (status is None or status.finished_time is None)
        and rollout.spec.firmware_ref != now.spec.firmware_ref
        and not set(rollout.spec.devices.names or ()).isdisjoint(now.spec.devices.names or ())
    )


def is_over(job: FlashJob) -> bool:
    """Whether a FlashJob, as it is written now, has come to its end: its rollout may be gone from the history."""
    conditions = job.status.conditions if job.status else ()
    return any(each.type == OVER and each.observed_generation == job.metadata.generation for each in conditions)


def flash_job_status(job: FlashJob, rollout: FirmwareRollout, *, now: datetime) -> FlashJobStatus:
    """In the words of Nubificus' operator; Completed is said of devices that run what they shall, and of no others."""
    status = rollout.status
    devices: dict[str, str] = orjson.loads(rollout.metadata.annotations.get(DEVICES, "{}"))
    flashes = {each.name: each for each in (status.devices if status else ())}
    done = tuple(uuid for uuid, name in devices.items() if name in flashes and flashes[name].state == "Confirmed")
    message = f"{len(done)} of {len(devices)} devices run the firmware"
    failed = [each for each in flashes.values() if each.state in ("Failed", "RolledBack")]
    if failed:
        message += "; " + "; ".join(f"{each.name}: {each.reason} {each.message}" for each in failed[:8])
    if status is None or status.started_time is None:
        phase = "Running"
        waits = next((each.message for each in (status.conditions if status else ()) if each.type == "Progressing"), "")
        message += f"; {waits}" if waits else ""
    elif status.finished_time is None:
        phase = "InProgress"
    else:
        phase = "Completed" if len(done) == len(devices) else "Failed"
    over = Verdict(type=OVER, status="True", reason=phase, message=f"FirmwareRollout {rollout.metadata.name}")
    verdicts = (over,) if phase in ("Completed", "Failed") else ()
    return FlashJobStatus(
        phase=phase,
        message=message[:1024],
        completed_uuids=done,
        conditions=stamp(verdicts, before=(), generation=job.metadata.generation, now=now),
    )


def job_spec_wish(configuration: Configuration) -> Ours | Theirs | None:
    """What a Configuration asks for with its firmwareJobSpec; None where it has none.

    Raises:
        InvalidField: it names neither an image nor firmware.
    """
    job = configuration.spec.firmware_job_spec
    if job is None:
        return None
    where = "spec.firmwareJobSpec.template.spec.containers"
    try:
        container = job["template"]["spec"]["containers"][0]
        said = {each["name"]: str(each.get("value", "")) for each in container.get("env") or ()}
        image = container.get("image")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise InvalidField(field=where, value=job, expected="a container, with env as Kubernetes has it") from error
    if image:
        return Theirs(job, said.get("VERSION", ""))
    if not said.get("FIRMWARE"):
        raise InvalidField(field=f"{where}[0]", value=container, expected="an image, or FIRMWARE in env")
    return Ours(said["FIRMWARE"], said.get("VERSION", ""))


def occasion(configuration: Configuration) -> str:
    """What devices are flashed for once: a Configuration as it is written now."""
    return f"{configuration.metadata.uid}/{configuration.metadata.generation}"


def configuration_order(
    configuration: Configuration,
    wish: Ours,
    *,
    instances: Iterable[Instance],
    places: Iterable[Place],
    served: Container[str],
    plain_http: Iterable[str],
) -> Order | None:
    """A rollout for the devices of a Configuration that had none for it as it is written now.

    Args:
        configuration: that is carried out.
        wish: what it asks for.
        instances: its own.
        places: LeafDevices of its namespace.
        served: names of those that had one.
        plain_http: registries that are asked without TLS.

    Raises:
        InvalidField: the firmware's name is none.
    """
    known = list(places)
    found = {
        place.name: place
        for each in instances
        if (place := place_at(each, known)) and place.name not in served and is_newer(wish.version, each)
    }
    if not found:
        return None
    names = sorted(found)
    return _order(
        wish.firmware,
        namespace=configuration.metadata.namespace or "",
        name=adopted_name(configuration.metadata.name, "Configuration", occasion(configuration), *names),
        owner=configuration,
        annotations={CONFIGURATION: occasion(configuration)},
        places=tuple(found[name] for name in names),
        policy="OnlyNewer",
        plain_http=plain_http,
    )


def is_newer(version: str, instance: Instance) -> bool:
    """Whether a version is newer than what an Instance says of itself; where one of both says nothing, it may be."""
    try:
        return Version.parse(version) > Version.parse((instance.spec.broker_properties or {})["VERSION"])
    except (KeyError, InvalidField):
        return True


def their_job(configuration: Configuration, wish: Theirs, instance: Instance) -> dict[str, Any]:
    """The Job of a firmwareJobSpec for one Instance: as it is written, told which device it is for.

    It runs once for each device and each way in which the Configuration was written: an Instance that is found again
    has its old name. So it is kept when it has ended.
    """
    spec = copy.deepcopy(dict(wish.job))
    spec.pop("ttlSecondsAfterFinished", None)
    pod = spec["template"]["spec"]
    pod.setdefault("restartPolicy", "Never")
    if not instance.spec.shared and instance.spec.nodes:
        pod.setdefault("nodeName", instance.spec.nodes[0])
    properties = instance.spec.broker_properties or {}
    told = {"UUID": instance.metadata.uid or ""} | {key: properties[key] for key in _ENVIRONMENT if key in properties}
    for container in pod["containers"]:
        own = container.get("env") or []
        names = {each["name"] for each in own}
        container["env"] = own + [{"name": key, "value": value} for key, value in told.items() if key not in names]
        for amounts in (container.get("resources") or {}).values():
            if isinstance(amounts, dict) and PLACEHOLDER in amounts:
                amounts[f"akri.sh/{instance.metadata.name}"] = amounts.pop(PLACEHOLDER)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": adopted_job_name(occasion(configuration), instance.metadata.name),
            "namespace": configuration.metadata.namespace,
            "ownerReferences": [configuration.owner_reference().dump()],
            "annotations": {
                "akri.sh/configuration": configuration.metadata.name,
                "akri.sh/instance": instance.metadata.name,
            },
        },
        "spec": spec,
    }


def _order(
    reference: str,
    *,
    namespace: str,
    name: str,
    owner: FlashJob | Configuration,
    annotations: dict[str, str],
    places: tuple[Place, ...],
    policy: Literal["OnlyNewer", "Always"],
    plain_http: Iterable[str],
) -> Order:
    spec = firmware_spec(reference, plain_http=plain_http)
    # Shared by all who name the same reference, and owned by none of them: devices that run it are trusted by it.
    firmware = Firmware(
        metadata=ObjectMeta(
            name=adopted_name(spec.repository.rpartition("/")[2], "Firmware", reference), namespace=namespace
        ),
        spec=spec,
    )
    devices = validate(DeviceSelection, {"names": [place.name for place in places]}, field="devices")
    rollout = FirmwareRollout(
        metadata=ObjectMeta(
            name=name, namespace=namespace, annotations=annotations, owner_references=(owner.owner_reference(),)
        ),
        spec=FirmwareRolloutSpec(
            firmware_ref=Reference(name=firmware.metadata.name),
            devices=devices,
            policy=policy,
            strategy=Strategy(max_failure_percent=100),
            history_limit=100,
            attestation="Required" if all(place.proves for place in places) else "Optional",
        ),
    )
    return Order(firmware, rollout)
