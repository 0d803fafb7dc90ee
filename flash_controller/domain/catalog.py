"""What a Firmware's status says, by what was found at its registry and by the operator's policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, assert_never

from pydantic import ValidationError

from crds.columns import summary
from crds.conditions import Verdict, stamp, timestamp
from crds.errors import InvalidField, Terminal
from crds.models.base import invalid_field
from crds.models.firmware import BoardImage, Contents, Firmware, FirmwareSpec, FirmwareStatus, Release
from crds.models.firmware_policy import KEY, FirmwarePolicy
from flash_controller.domain.packages import Package, Part
from flash_controller.domain.signatures import public_key
from flash_controller.reasons import FirmwareReason as Reason

RESOLVED, VERIFIED, READY = "Resolved", "Verified", "Ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The reference means this release.

    Attributes:
        release: what the index holds, and who signed it.
        tag: the tag that was taken; empty where there was none.
        doubt: why no signature of it counts, where it is signed all the same.
    """

    release: Release
    tag: str
    doubt: Terminal | None = None


@dataclass(frozen=True, slots=True)
class Missed:
    """What the reference means is not known now; what was known of it before stays."""

    reason: str
    message: str


Look = Found | Missed


def not_to_be_asked(spec: FirmwareSpec, policy: FirmwarePolicy) -> Missed | None:
    """Why the policy does not let a repository be asked, or not in this way; None where it does."""
    host = spec.repository.partition("/")[0]
    if not _matches(spec.repository, policy.repositories.allow):
        allowed = ", ".join(policy.repositories.allow)
        return Missed(Reason.REPOSITORY_REFUSED, f"{spec.repository} is not one of {allowed}")
    if spec.plain_http and host not in policy.plain_http:
        return Missed(Reason.PLAIN_HTTP, f"the policy does not let {host} be asked without TLS")
    return None


def keys_for(policy: FirmwarePolicy, application: str) -> dict[str, str]:
    """The keys in PEM that may sign an application, by name."""
    return {key.name: key.public_key for key in policy.keys if _matches(application, key.applications)}


def release_of(package: Package, *, signed_by: str | None) -> Release:
    """A package as status shows it.

    Raises:
        InvalidField: it holds more than a status may.
    """
    facts = package.facts
    try:
        return Release(
            digest=package.digest,
            signed_by=signed_by or "",
            application=facts.application or "",
            version=facts.version or "",
            security_counter=facts.security_counter,
            boards=tuple(map(_board, package.parts)),
            sensors=package.sensors,
        )
    except ValidationError as error:
        raise invalid_field(error, field="index") from error


def read_policy(config_map: Mapping[str, Any]) -> FirmwarePolicy:
    """The policy that a ConfigMap holds.

    Raises:
        InvalidField: names what is wrong, its value and what was expected.
    """
    text = (config_map.get("data") or {}).get(KEY)
    if text is None:
        raise InvalidField(field=f"data[{KEY}]", value=None, expected="the policy")
    policy = FirmwarePolicy.parse_yaml(text, field=KEY)
    for number, key in enumerate(policy.keys):
        public_key(key.public_key, field=f"{KEY}.keys[{number}].publicKey")
    return policy


def judge(release: Release, policy: FirmwarePolicy, *, doubt: Terminal | None = None) -> tuple[Verdict, Verdict]:
    """Whether a release is verified, and whether it may be used, which is not the same where `unsigned` is Allow."""
    verified = _verified(release, policy, doubt)
    if not _matches(release.application, policy.applications.allow):
        message = (
            f"application {release.application or '(unnamed)'} is not one of {', '.join(policy.applications.allow)}"
        )
        return verified, Verdict(type=READY, status="False", reason=Reason.APPLICATION_REFUSED, message=message)
    if verified.status == "True":
        return verified, Verdict(type=READY, status="True", reason=Reason.READY)
    if verified.reason == Reason.UNSIGNED and policy.unsigned == "Allow":
        message = "nobody signed it, which the policy allows: no device can prove that it runs this"
        return verified, Verdict(type=READY, status="True", reason=Reason.UNSIGNED, message=message)
    return verified, Verdict(type=READY, status="False", reason=verified.reason, message=verified.message)


def decide(firmware: Firmware, look: Look, *, policy: FirmwarePolicy, now: datetime) -> FirmwareStatus:
    """The status after a look.

    Args:
        firmware: with the status that it has.
        look: what came of it.
        policy: of the operator.
        now: for what changed.
    """
    before = firmware.status or FirmwareStatus()
    generation = firmware.metadata.generation
    current: Release | None
    match look:
        case Found():
            current, tag = look.release, look.tag
            what = f"{tag} is {current.digest}" if tag else current.digest
            resolved = Verdict(type=RESOLVED, status="True", reason=Reason.RESOLVED, message=what)
            verdicts = judge(current, policy, doubt=look.doubt)
        case Missed():
            kept = before.observed_generation == generation
            current, tag = (before.current if kept else None), (before.resolved_tag if kept else "")
            resolved = Verdict(type=RESOLVED, status="False", reason=look.reason, message=look.message)
            verdicts = _kept(current, before, policy) if current else _unknown(look)
        case _:
            assert_never(look)
    digest = current.digest if current else None
    contents = current or Contents()
    return FirmwareStatus(
        observed_generation=generation,
        conditions=stamp((resolved, *verdicts), before=before.conditions, generation=generation, now=now),
        resolved_tag=tag,
        board_names=summary(image.board for image in contents.boards),
        digest=digest,
        history=_history(before, digest, policy)[: firmware.spec.history_limit],
        observed_time=before.observed_time if digest == before.digest else timestamp(now) if digest else None,
        **{field: getattr(contents, field) for field in Contents.model_fields},
    )


def _history(before: FirmwareStatus, digest: str | None, policy: FirmwarePolicy) -> tuple[Release, ...]:
    """Earlier releases that were ready, and still would be: rollouts that began with one of them go on with it."""
    was_ready = any(each.type == READY and each.status == "True" for each in before.conditions)
    earlier = before.releases if was_ready else before.history
    return tuple(each for each in earlier if each.digest != digest and judge(each, policy)[1].status == "True")


def _kept(current: Release, before: FirmwareStatus, policy: FirmwarePolicy) -> tuple[Verdict, Verdict]:
    """Verdicts on what was not looked at again: a policy that changed may withdraw trust and gives none."""
    earlier = {condition.type: condition for condition in before.conditions}

    def at_most(verdict: Verdict) -> Verdict:
        said = earlier.get(verdict.type)
        if said is None or said.status == "True":
            return verdict
        return Verdict(type=said.type, status=said.status, reason=said.reason, message=said.message)

    verified, ready = judge(current, policy)
    return at_most(verified), at_most(ready)


def _unknown(look: Missed) -> tuple[Verdict, Verdict]:
    return (
        Verdict(type=VERIFIED, status="Unknown", reason=look.reason, message="nothing was found yet"),
        Verdict(type=READY, status="False", reason=look.reason, message=look.message),
    )


def _verified(release: Release, policy: FirmwarePolicy, doubt: Terminal | None) -> Verdict:
    if doubt is not None:
        return Verdict(type=VERIFIED, status="False", reason=doubt.reason, message=str(doubt))
    if not release.signed_by:
        return Verdict(type=VERIFIED, status="False", reason=Reason.UNSIGNED, message="nobody signed it")
    if release.signed_by not in keys_for(policy, release.application):
        message = f"key {release.signed_by} may not sign {release.application} any more"
        return Verdict(type=VERIFIED, status="False", reason=Reason.NOT_TRUSTED, message=message)
    return Verdict(type=VERIFIED, status="True", reason=Reason.VERIFIED, message=f"signed by {release.signed_by}")


def _board(part: Part) -> BoardImage:
    facts = part.facts
    return BoardImage(
        board=part.board,
        manifest_digest=part.manifest_digest,
        digest=part.blob.digest,
        size_bytes=part.blob.size,
        media_type=part.blob.media_type,
        format=facts.format.value if facts.format else None,
        measurement=facts.measurement,
        version=facts.version or "",
        security_counter=facts.security_counter,
    )


def _matches(application: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(application, glob) for glob in globs)
