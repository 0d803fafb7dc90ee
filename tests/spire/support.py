"""A manufacturer and its devices: real keys, real certificates, in either form."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from types import ModuleType

from cryptography.hazmat.primitives.asymmetric import ec

from scripts.simulator import dice as simulated
from scripts.simulator.factory import Factory
from spire.domain import dice_cbor, dice_x509
from spire.domain.dice import Component, Inputs, Mode, private_key
from spire.domain.keys import Curve, PrivateKey
from spire.domain.policy import AllOf, ApplicationIn, CounterAtLeast, ManufacturedBy, MeasuredAs, ModeIn
from spire.domain.ueid import Ueid

Device = simulated.Device
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
NONCE = bytes(range(32))
PEER = "connection-1"


def digest(text: str) -> bytes:
    return hashlib.sha512(text.encode()).digest()


BOOT, GOOD, TAMPERED = digest("boot loader"), digest("thermometer 1.2"), digest("thermometer 1.2, and a back door")


def seeded(text: str, curve: Curve = Curve.P256) -> PrivateKey:
    return private_key(digest(text)[:32], curve)


def factory(name: str = "acme", seed: str = "acme's root") -> Factory:
    key = seeded(seed)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Factory.found(name, key=key)


ACME = factory()


def boot_inputs(**changes: object) -> Inputs:
    return replace(Inputs(code_hash=BOOT, mode=Mode.NORMAL), **changes)  # type: ignore[arg-type]  # names of fields come from the tests


def firmware_inputs(
    measurement: bytes = GOOD, *, name: str | None = "thermo", counter: int | None = 7, mode: Mode = Mode.NORMAL
) -> Inputs:
    component = Component(name=name, version="1.2", security_counter=counter)
    return Inputs(code_hash=measurement, configuration_descriptor=component.descriptor(), mode=mode)


def device(
    seed: str = "device 1",
    *,
    layers: tuple[Inputs, ...] | None = None,
    maker: Factory = ACME,
    form: ModuleType = dice_x509,
    curve: Curve = Curve.P256,
    ueid: Ueid | None = None,
) -> Device:
    """Boot a device whose layers are as given (default: the boot loader and the good firmware)."""
    name = next(name for name, module in simulated.FORMS.items() if module is form)
    board = maker.board(digest(seed)[:32], form=name, curve=curve, ueid=ueid)
    booted = board.boot(*(layers or (boot_inputs(), firmware_inputs())), own=seeded(f"{seed}, TLS"))
    return replace(booted, claims=replace(booted.claims, nonce=NONCE))


POLICY = AllOf(
    (
        ManufacturedBy({"acme"}),
        MeasuredAs(boot={BOOT}, firmware={GOOD}),
        ModeIn(),
        CounterAtLeast(5),
        ApplicationIn({"thermo"}),
    )
)
FORMS = (dice_x509, dice_cbor)
