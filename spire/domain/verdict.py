"""What an appraisal ends in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from spire.domain.certificates import Layer
from spire.domain.errors import Reason
from spire.domain.keys import PublicKey
from spire.domain.ueid import Ueid


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """What a device is and what it runs, as its certificates prove it; policies judge it now, and again from records.

    Attributes:
        ueid: its name.
        manufacturer: who vouches for its hardware.
        layers: its software from the boot loader to the application, as certified by the layer below each.
        application: name of the last layer.
    """

    ueid: Ueid
    manufacturer: str
    layers: tuple[Layer, ...]
    application: str

    @property
    def firmware(self) -> Layer:
        """The layer that runs the application."""
        return self.layers[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested(Proven):
    """A device that proved it right now, and wants a certificate: tier Attested.

    Attributes:
        key: what it wants the certificate for.
    """

    key: PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Legacy:
    """A certificate of the older dialect: it proves no more than that somebody knows a MAC address.

    Attributes:
        mac: the address.
        measurement: what the certificate says of the code.
    """

    mac: str
    measurement: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """No.

    Attributes:
        reason: for conditions and metrics.
        message: for people.
    """

    reason: Reason
    message: str


Accepted: TypeAlias = Proven | Legacy
Verdict: TypeAlias = Attested | Legacy | Refused
