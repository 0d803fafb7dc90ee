"""Is this device what it says? From bytes to a verdict, in the one order in which that can be asked.

1. `accept_chain`: the certificates lead from a manufacturer to the attestation key.
2. `accept_evidence`: that key signed the evidence, which answers our nonce and agrees with the certificates.
3. `verdict`: the site's policy on what the certificates say.

Measurement, mode, security counter and application come from the certificates, which the layer below signed: firmware
that was tampered with can claim the digest of the good one in its evidence and still has its own in its certificate.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from spire.domain import eat
from spire.domain.chain import Manufacturer, VerifiedChain, verify_chain
from spire.domain.dice import Mode
from spire.domain.eat import Claims, DebugState, Token
from spire.domain.errors import Malformed, Reason, Untrusted
from spire.domain.nonces import Nonces
from spire.domain.policy import Policy
from spire.domain.spiffe_id import is_segment
from spire.domain.verdict import Attested, Refused


class Appraisal:
    """One device's evidence on its way to a verdict. Each step is taken once; one that raises ends the appraisal."""

    def __init__(self, *, manufacturers: Sequence[Manufacturer], policy: Policy, now: datetime) -> None:
        """Start.

        Args:
            manufacturers: who is believed about hardware.
            policy: what the site accepts.
            now: the time, for certificates.
        """
        self._manufacturers = manufacturers
        self._policy = policy
        self._now = now
        self._given: tuple[bytes, ...] | None = None
        self._chain: VerifiedChain | None = None
        self._device: Attested | None = None

    def accept_chain(self, chain: Sequence[bytes]) -> VerifiedChain:
        """Check the certificates.

        Args:
            chain: the attestation key's certificate first, that of the hardware last.

        Raises:
            Malformed: a certificate cannot be read.
            Untrusted: they do not lead from a known manufacturer to an attestation key.
            RuntimeError: called twice.
        """
        if self._given is not None:
            raise RuntimeError("a chain was given before")
        self._given = tuple(chain)
        self._chain = verify_chain(self._given, manufacturers=self._manufacturers, now=self._now)
        return self._chain

    def accept_evidence(self, token: Token, *, nonce: bytes) -> Attested:
        """Check the evidence against the chain.

        Args:
            token: the EAT; the chain that it brings, if any, must be the accepted one.
            nonce: the challenge that it must answer.

        Returns:
            What is proven, which no policy has judged yet.

        Raises:
            Malformed: a claim is missing or of another type.
            Untrusted: it is not signed by the chain's key, answers another nonce, or contradicts the certificates.
            RuntimeError: called before a chain was accepted, or twice.
        """
        if self._chain is None or self._device is not None:
            raise RuntimeError("evidence comes after the chain, and once")
        chain, self._chain = self._chain, None
        if token.chain not in ((), self._given):
            raise Untrusted(Reason.CHAIN_BROKEN, "the evidence brings another chain than the accepted one")
        claims = token.claims(chain.attestation_key)
        if claims.nonce != nonce:
            raise Untrusted(Reason.NONCE_REFUSED, "the evidence answers another nonce")
        self._device = _agreed(claims, chain)
        return self._device

    def verdict(self) -> Attested | Refused:
        """What the policy says to what is proven.

        Raises:
            RuntimeError: called before evidence was accepted.
        """
        if self._device is None:
            raise RuntimeError("a verdict comes after the evidence")
        return self._policy.judge(self._device) or self._device


def appraise(
    evidence: bytes,
    *,
    peer: str,
    nonces: Nonces,
    manufacturers: Sequence[Manufacturer],
    policy: Policy,
    now: datetime,
) -> Attested | Refused:
    """All steps over evidence that brings its chain.

    Args:
        evidence: the EAT.
        peer: who sent it, as the nonce was given to.
        nonces: the open challenges; evidence that holds spends the one that it answers, and a stranger cannot.
        manufacturers: who is believed about hardware.
        policy: what the site accepts.
        now: the time.
    """
    appraisal = Appraisal(manufacturers=manufacturers, policy=policy, now=now)
    try:
        token = eat.parse(evidence)
        nonces.check(token.nonce, peer=peer, now=now)  # before the signatures, which cost a stranger nothing to ask for
        appraisal.accept_chain(token.chain)
        appraisal.accept_evidence(token, nonce=token.nonce)
        nonces.redeem(token.nonce, peer=peer, now=now)
    except (Malformed, Untrusted) as error:
        return Refused(reason=Reason(error.reason), message=str(error))
    return appraisal.verdict()


def _agreed(claims: Claims, chain: VerifiedChain) -> Attested:
    """What certificates and evidence say alike."""
    firmware = chain.layers[-1]
    application = firmware.component.name
    if application is None or not is_segment(application):
        message = f"the certificates name the application {application!r}, which cannot be part of a SPIFFE ID"
        raise Untrusted(Reason.NO_APPLICATION, message)
    _same("ueid", claims.ueid, chain.ueid)
    _same("measurement", claims.measurement.hex(), firmware.measurement.hex())
    _same("software name", claims.software_name, application)
    _same("software version", claims.software_version, firmware.component.version)
    modes = {layer.mode for layer in chain.layers}
    if Mode.DEBUG in modes:
        _same("debugging", claims.debug is DebugState.ENABLED, certified=True)
    elif modes == {Mode.NORMAL}:
        _same("debugging", claims.debug is DebugState.ENABLED, certified=False)
    if claims.key == chain.attestation_key:
        raise Untrusted(Reason.KEY_REUSED, "the key to certify is the one that attests")
    return Attested(
        ueid=chain.ueid,
        manufacturer=chain.manufacturer,
        layers=chain.layers,
        application=application,
        key=claims.key,
    )


def _same(what: str, claimed: object, certified: object) -> None:
    if claimed != certified:
        raise Untrusted(Reason.CLAIM_CONTRADICTED, f"{what}: claimed {claimed}, certified {certified}")
