"""What an appraisal costs, against the bare signature checks that it contains; nothing but arithmetic, one core.

Each device's appraisal and its five checks alone are timed next to each other again and again, and the best of each
counts: other work on the machine only ever adds.

A device that was never seen brings four of the five keys as bytes (the first is its manufacturer's), and nobody can
check a signature before the key is made of those. So the bare checks of such a device make the keys too, each from its
point alone; the figure tells beside it what the ratio were if the keys were there by themselves.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeAlias, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks.report import Figure
from scripts.simulator.dice import BOOT_LOADER, Image
from scripts.simulator.factory import Factory
from spire.domain import keys
from spire.domain.appraisal import appraise
from spire.domain.chain import parse_certificate
from spire.domain.nonces import Nonces
from spire.domain.site import site_of
from spire.domain.verdict import Attested

GOAL: Final = 1.5
_DEVICES, _NOW, _PEER = 8, datetime.now(UTC), "peer"
_NONCE = bytes(range(32))
_ALGORITHM = ec.ECDSA(hashes.SHA256())
_CURVE = ec.SECP256R1()
Check: TypeAlias = tuple[ec.EllipticCurvePublicKey, bytes, bytes]
Unloaded: TypeAlias = tuple[bytes, bytes, bytes]
A = TypeVar("A")
FIRMWARE = Image(code=b"thermometer", application="thermo", version="1.2", counter=7)


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds.

    Attributes:
        first: of a device that was never seen.
        again: of one whose certificates were read before.
        bare: of the signature checks in either, by keys that are there.
        loaded: of the same checks by keys that are made for them, all but the manufacturer's.
    """

    first: float
    again: float
    bare: float
    loaded: float


def figures(*, rounds: int) -> list[Figure]:
    """All of them."""
    factory = Factory.found("acme")
    both = {form: _cost(factory, form, rounds=rounds) for form in ("x509", "cbor")}
    mixed = Cost(*(statistics.mean(column) for column in zip(*map(_columns, both.values()), strict=True)))
    found = []
    for form, cost in [*both.items(), ("mixed", mixed)]:
        rate = f"{1e6 / cost.again:.0f}/s, bare checks {1e6 / cost.bare:.0f}/s"
        found.append(_ratio(f"{form}Ratio", f"appraisal / bare checks, {form}", cost.again / cost.bare, peer=rate))
    for form, cost in [*both.items(), ("mixed", mixed)]:
        rate = f"{1e6 / cost.first:.0f}/s; {cost.first / cost.bare:.2f} were the keys there by themselves"
        text = f"the same for devices that were never seen, {form}"
        found.append(_ratio(f"{form}FirstRatio", text, cost.first / cost.loaded, peer=rate))
    slowest = max(cost.first for cost in both.values()) / 1000
    text = "one verdict on a device that was never seen, ms"
    found.append(Figure(key="verdictMilliseconds", text=text, value=slowest, goal=5, holds="below"))
    return found


def _ratio(key: str, text: str, value: float, *, peer: str) -> Figure:
    return Figure(key=key, text=text, value=value, goal=GOAL, holds="at most", peer=peer)


def _columns(cost: Cost) -> tuple[float, float, float, float]:
    return cost.first, cost.again, cost.bare, cost.loaded


def _cost(factory: Factory, form: str, *, rounds: int) -> Cost:
    site = site_of(factory.policy([FIRMWARE]))
    nonces = Nonces()
    inputs = (Image(code=BOOT_LOADER).inputs(), FIRMWARE.inputs())
    boards = [factory.board(bytes([number] * 32), form=form) for number in range(_DEVICES)]
    evidence = [board.boot(*inputs).evidence(nonce=_NONCE) for board in boards]

    def verdict(token: bytes) -> None:
        nonces.give(_NONCE, peer=_PEER, now=_NOW)
        made = appraise(token, peer=_PEER, nonces=nonces, manufacturers=site.manufacturers, policy=site, now=_NOW)
        assert isinstance(made, Attested), made

    checks = [_checks_of(verdict, token) for token in evidence]
    points = [[(_point(key), signature, message) for key, signature, message in several] for several in checks]
    first, again, bare, loaded = ([float("inf")] * _DEVICES for _ in range(4))
    for _ in range(rounds):
        for number, token in enumerate(evidence):
            parse_certificate.cache_clear()
            first[number] = min(first[number], _timed(verdict, token))
            again[number] = min(again[number], _timed(verdict, token))
            bare[number] = min(bare[number], _timed(_verify, checks[number]))
            loaded[number] = min(loaded[number], _timed(_load_and_verify, (checks[number][0], points[number][1:])))
    return Cost(*(1e6 * statistics.mean(column) for column in (first, again, bare, loaded)))


def _checks_of(verdict: Callable[[bytes], None], token: bytes) -> list[Check]:
    """The signature checks of a verdict, in their order."""
    checks: list[Check] = []
    honest = keys.verify_der

    def noting(key: keys.PublicKey, *, signature: bytes, message: bytes, what: str, hash_name: str | None) -> None:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        checks.append((key, signature, message))
        honest(key, signature=signature, message=message, what=what, hash_name=hash_name)

    keys.verify_der = noting
    try:
        verdict(token)
    finally:
        keys.verify_der = honest
    return checks


def _verify(checks: list[Check]) -> None:
    for key, signature, message in checks:
        key.verify(signature, message, _ALGORITHM)


def _load_and_verify(checks: tuple[Check, list[Unloaded]]) -> None:
    (key, signature, message), others = checks
    key.verify(signature, message, _ALGORITHM)
    for point, signature, message in others:
        ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, point).verify(signature, message, _ALGORITHM)


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _timed(function: Callable[[A], None], argument: A) -> float:
    began = time.perf_counter()
    function(argument)
    return time.perf_counter() - began
