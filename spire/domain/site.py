"""A site's whole policy, compiled: whom it believes about hardware, and what it accepts of what they prove."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import assert_never

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from crds.models.appraisal import KEY, AppraisalPolicy, KnownFirmware
from spire.domain.certificates import MAX_CERTIFICATE
from spire.domain.chain import Manufacturer
from spire.domain.dice import Mode
from spire.domain.errors import Malformed, Reason
from spire.domain.policy import (
    AllOf,
    CounterAtLeast,
    LegacyFrom,
    ManufacturedBy,
    MeasuredAs,
    ModeIn,
    NotRevoked,
    Policy,
)
from spire.domain.ueid import Ueid
from spire.domain.verdict import Accepted, Legacy, Proven, Refused

MODES: Mapping[Mode, str] = {
    Mode.NORMAL: "Normal",
    Mode.DEBUG: "Debug",
    Mode.RECOVERY: "Recovery",
    Mode.NOT_CONFIGURED: "NotConfigured",
}
"""As policies and statuses write them."""

_EUI = 2
_BY_WORD = {word: mode for mode, word in MODES.items()}


def mode_of(word: str) -> Mode:
    """The mode of a word; what is no word of ours is the worst of them."""
    return _BY_WORD.get(word, Mode.NOT_CONFIGURED)


@dataclass(frozen=True, slots=True)
class KnownAs:
    """The application is known under the name, and the version, that its certificate says.

    Attributes:
        firmware: by measurement, names and versions; version None stands for any.
    """

    firmware: Mapping[bytes, AbstractSet[tuple[str, str | None]]]

    def judge(self, device: Accepted) -> Refused | None:
        """See `Policy`."""
        if isinstance(device, Legacy):
            return Refused(reason=Reason.LEGACY_REFUSED, message=f"{device.mac} has a Legacy certificate only")
        known = self.firmware.get(device.firmware.measurement, frozenset())
        version = device.firmware.component.version
        if not known.isdisjoint({(device.application, None), (device.application, version)}):
            return None
        message = f"runs {device.application} {version or ''}, and its measurement is known as something else"
        return Refused(reason=Reason.APPLICATION_REFUSED, message=message)


@dataclass(frozen=True, slots=True)
class CounterFloors:
    """The security counter of each application has not gone back below the application's floor.

    Attributes:
        floors: by application; without one, any counter will do, and none.
    """

    floors: Mapping[str, int]

    def judge(self, device: Accepted) -> Refused | None:
        """See `Policy`."""
        floor = self.floors.get(device.application) if isinstance(device, Proven) else None
        return None if floor is None else CounterAtLeast(floor).judge(device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a site accepts; a `Policy` over both kinds of devices.

    Attributes:
        manufacturers: whose roots chains may lead to.
        dice: what must hold of a device that proved itself.
        legacy: what must hold of a certificate of the older dialect.
        legacy_roots: by MAC address, what such a certificate is verified by.
    """

    manufacturers: tuple[Manufacturer, ...] = ()
    dice: Policy = field(default_factory=lambda: AllOf(()))
    legacy: Policy = field(default_factory=lambda: AllOf(()))
    legacy_roots: Mapping[str, bytes] = field(default_factory=dict)

    def judge(self, device: Accepted) -> Refused | None:
        """See `Policy`."""
        match device:
            case Proven():
                return self.dice.judge(device)
            case Legacy():
                return self.legacy.judge(device)
            case _:
                assert_never(device)


def judge_again(device: Accepted, *, site: Site, last: Proven | None) -> Refused | None:
    """The site's verdict, and that the firmware is none that this device has already been updated away from.

    Args:
        device: what is proven now.
        site: what the site accepts.
        last: what was last accepted of this device. Counters of different applications do not compare.
    """
    floors = {}
    if last is not None and (counter := last.firmware.component.security_counter) is not None:
        floors = {last.application: counter}
    return site.judge(device) or CounterFloors(floors).judge(device)


def site_of(policy: AppraisalPolicy, *, catalog: Iterable[KnownFirmware] = ()) -> Site:
    """Compile a policy.

    Args:
        policy: what the administrator wrote.
        catalog: firmware that is known beside it.

    Raises:
        Malformed: a root is no certificate that may certify, or a UEID is none.
    """
    manufacturers = tuple(
        Manufacturer.of_certificate(
            each.name,
            _der(each.root, field=f"{KEY}.manufacturers[{number}].root"),
            names_devices=each.names_devices,
        )
        for number, each in enumerate(policy.manufacturers)
    )
    legacy_roots = {
        each.mac: _der(each.root, field=f"{KEY}.legacy[{number}].root") for number, each in enumerate(policy.legacy)
    }
    firmware: dict[bytes, set[tuple[str, str | None]]] = {}
    for each in (*policy.firmware, *catalog):
        firmware.setdefault(bytes.fromhex(each.measurement), set()).add((each.application, each.version))
    boot = {bytes.fromhex(each.measurement) for each in policy.boot}
    revoked = frozenset(Ueid(bytes.fromhex(each)) for each in policy.revoked)
    return Site(
        manufacturers=manufacturers,
        dice=AllOf(
            (
                NotRevoked(revoked),
                ManufacturedBy({each.name for each in manufacturers}),
                ModeIn({mode_of(word) for word in policy.modes}),
                MeasuredAs(boot=boot, firmware=firmware.keys()),
                KnownAs(firmware),
                CounterFloors(policy.security_counters),
            )
        ),
        legacy=LegacyFrom(legacy_roots.keys() - {mac_of(ueid) for ueid in revoked}),
        legacy_roots=legacy_roots,
    )


def mac_of(ueid: Ueid) -> str | None:
    """The MAC address that a name of type EUI is; None where it is something else."""
    kind, *_ = ueid.value
    return ueid.value[1:].hex(":") if kind == _EUI else None


def _der(pem: str, *, field: str) -> bytes:
    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
        (certificate,) = certificates
        der = certificate.public_bytes(Encoding.DER)
    except ValueError as error:
        raise Malformed(field=field, value=pem, expected=f"one certificate in PEM ({error})") from error
    if len(der) > MAX_CERTIFICATE:
        raise Malformed(field=field, value=f"{len(der)} bytes", expected=f"at most {MAX_CERTIFICATE} bytes")
    return der
