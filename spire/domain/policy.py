"""What a site accepts: small policies that compose.

Policies see what is proven already. Each one says what it refuses; a combination of none accepts nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from spire.domain.dice import Mode
from spire.domain.errors import Reason
from spire.domain.ueid import Ueid
from spire.domain.verdict import Accepted, Legacy, Proven, Refused


class Policy(Protocol):
    """A condition on what is proven."""

    def judge(self, device: Accepted) -> Refused | None:
        """Why this device is refused, or None."""


@dataclass(frozen=True, slots=True)
class AllOf:
    """Passes what every part passes; the first refusal is the answer."""

    policies: tuple[Policy, ...]

    def judge(self, device: Accepted) -> Refused | None:
        """See `Policy`."""
        if not self.policies:
            return _NOTHING
        return next((refused for policy in self.policies if (refused := policy.judge(device))), None)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Passes what one part passes; otherwise all refusals are told, under the reason of the first."""

    policies: tuple[Policy, ...]

    def judge(self, device: Accepted) -> Refused | None:
        """See `Policy`."""
        refusals = []
        for policy in self.policies:
            refused = policy.judge(device)
            if refused is None:
                return None
            refusals.append(refused)
        if not refusals:
            return _NOTHING
        return Refused(reason=refusals[0].reason, message="; ".join(refused.message for refused in refusals))


class _OfAttested(ABC):
    """A policy on DICE evidence; certificates of the older dialect it refuses."""

    __slots__ = ()

    def judge(self, device: Accepted) -> Refused | None:
        """See `Policy`."""
        match device:
            case Legacy():
                return Refused(reason=Reason.LEGACY_REFUSED, message=f"{device.mac} has a Legacy certificate only")
            case Proven():
                return self._judge(device)

    @abstractmethod
    def _judge(self, device: Proven) -> Refused | None: ...


@dataclass(frozen=True, slots=True)
class ManufacturedBy(_OfAttested):
    """Hardware of these manufacturers."""

    names: AbstractSet[str]

    def _judge(self, device: Proven) -> Refused | None:
        if device.manufacturer in self.names:
            return None
        return Refused(
            reason=Reason.MANUFACTURER_REFUSED, message=f"made by {device.manufacturer}, who is not accepted"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredAs(_OfAttested):
    """Known software in every layer.

    The application must be known as firmware, each layer under it as boot code. One set for both would not do: firmware
    holds the key of its own layer, and if it could stand under another, it could certify that one as anything.

    Attributes:
        boot: measurements of code that starts other code, and measures it honestly.
        firmware: measurements of applications.
    """

    boot: AbstractSet[bytes]
    firmware: AbstractSet[bytes]

    def _judge(self, device: Proven) -> Refused | None:
        *under, application = device.layers
        known = [(layer, self.boot, "boot code") for layer in under] + [(application, self.firmware, "firmware")]
        for number, (layer, references, word) in enumerate(known):
            if layer.measurement not in references:
                message = f"layer {number} measures {layer.measurement.hex()}, which is not known as {word}"
                return Refused(reason=Reason.MEASUREMENT_UNKNOWN, message=message)
        return None


@dataclass(frozen=True, slots=True)
class ModeIn(_OfAttested):
    """Every layer started in one of these modes."""

    modes: AbstractSet[Mode] = frozenset({Mode.NORMAL})

    def _judge(self, device: Proven) -> Refused | None:
        for number, layer in enumerate(device.layers):
            if layer.mode not in self.modes:
                return Refused(reason=Reason.MODE_REFUSED, message=f"layer {number} started in mode {layer.mode.name}")
        return None


@dataclass(frozen=True, slots=True)
class CounterAtLeast(_OfAttested):
    """The firmware's security counter has not gone back below a floor; firmware without one is below every floor."""

    floor: int

    def _judge(self, device: Proven) -> Refused | None:
        counter = device.firmware.component.security_counter
        if counter is not None and counter >= self.floor:
            return None
        message = f"security counter is {'absent' if counter is None else counter}, at least {self.floor} is needed"
        return Refused(reason=Reason.COUNTER_TOO_LOW, message=message)


@dataclass(frozen=True, slots=True)
class ApplicationIn(_OfAttested):
    """One of these applications runs."""

    names: AbstractSet[str]

    def _judge(self, device: Proven) -> Refused | None:
        if device.application in self.names:
            return None
        return Refused(reason=Reason.APPLICATION_REFUSED, message=f"runs {device.application}, which is not accepted")


@dataclass(frozen=True, slots=True)
class NotRevoked(_OfAttested):
    """None of these devices."""

    ueids: AbstractSet[Ueid]

    def _judge(self, device: Proven) -> Refused | None:
        if device.ueid not in self.ueids:
            return None
        return Refused(reason=Reason.REVOKED, message=f"device {device.ueid} is revoked")


@dataclass(frozen=True, slots=True)
class LegacyFrom:
    """Certificates of the older dialect for these MAC addresses, although anybody can make them; and nothing else."""

    macs: AbstractSet[str]

    def judge(self, device: Accepted) -> Refused | None:
        """See `Policy`."""
        match device:
            case Legacy() if device.mac in self.macs:
                return None
            case Legacy():
                message = f"{device.mac} is not one of the addresses whose Legacy certificate is accepted"
            case Proven():
                message = "not a Legacy certificate"
        return Refused(reason=Reason.LEGACY_REFUSED, message=message)


_NOTHING = Refused(reason=Reason.NO_POLICY, message="no policy accepts anything")
