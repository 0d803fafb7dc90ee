"""A device asks for its SVID: evidence and request on one side, the site's policy and its record on the other.

What comes of it says two things: the verdict, and whether the device itself is behind it. A tampered device proves who
it is as well as an honest one, and loses its trust by that; what anybody can send only gets an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from spire.domain import eat, nubificus
from spire.domain.appraisal import Appraisal
from spire.domain.authority import key_of_csr
from spire.domain.errors import Malformed, Reason, Untrusted
from spire.domain.nonces import Nonces
from spire.domain.site import Site, judge_again, mac_of
from spire.domain.ueid import Ueid
from spire.domain.verdict import Attested, Proven, Refused, Verdict

_BY_THE_DEVICE: Final = frozenset({Reason.CLAIM_CONTRADICTED, Reason.KEY_REUSED, Reason.NO_APPLICATION})
"""Refusals of evidence (`Appraisal.accept_evidence`) that come after its signature was found to be the device's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of asking.

    Attributes:
        verdict: for the answer.
        genuine: the device itself, with our fresh challenge, proved what the verdict is about.
    """

    verdict: Verdict
    genuine: bool = False


def enrol(
    evidence: bytes,
    *,
    csr: bytes,
    ueid: Ueid,
    peer: str,
    nonces: Nonces,
    site: Site,
    last: Proven | None,
    now: datetime,
) -> Outcome:
    """Judge evidence and the request that comes with it.

    Args:
        evidence: an EAT with its chain, or a certificate of the older dialect.
        csr: PKCS #10 in DER, of which the key alone counts; empty with a certificate of the older dialect.
        ueid: who is expected.
        peer: who sent this, as the nonce was given to.
        nonces: the open challenges; genuine evidence spends its own, accepted or not.
        site: what is accepted.
        last: what was last accepted of this device.
        now: the time.
    """
    try:
        if nubificus.looks_like(evidence):
            return Outcome(verdict=_legacy(evidence, csr=csr, ueid=ueid, site=site, now=now))
        return _dice(evidence, csr=csr, ueid=ueid, peer=peer, nonces=nonces, site=site, last=last, now=now)
    except (Malformed, Untrusted) as error:
        return Outcome(verdict=_refused(error))


def _dice(
    evidence: bytes,
    *,
    csr: bytes,
    ueid: Ueid,
    peer: str,
    nonces: Nonces,
    site: Site,
    last: Proven | None,
    now: datetime,
) -> Outcome:
    token = eat.parse(evidence)
    nonces.check(token.nonce, peer=peer, now=now)  # before the signatures, which cost a stranger nothing to ask for
    appraisal = Appraisal(manufacturers=site.manufacturers, policy=site, now=now)
    chain = appraisal.accept_chain(token.chain)
    if chain.ueid != ueid:
        raise Untrusted(Reason.CLAIM_CONTRADICTED, f"the certificates are those of {chain.ueid}, not of {ueid}")
    try:
        device = appraisal.accept_evidence(token, nonce=token.nonce)
    except Untrusted as error:
        if error.reason not in _BY_THE_DEVICE:
            raise
        nonces.redeem(token.nonce, peer=peer, now=now)
        return Outcome(verdict=_refused(error), genuine=True)
    refused = judge_again(device, site=site, last=last)
    if refused is None:
        _same_key(device, csr)
    nonces.redeem(token.nonce, peer=peer, now=now)
    return Outcome(verdict=refused or device, genuine=True)


def _same_key(device: Attested, csr: bytes) -> None:
    """Somebody between could put in another request: the evidence names the one key that this device asks for."""
    if key_of_csr(csr) != device.key:
        raise Untrusted(Reason.KEY_NOT_NAMED, "the request is for another key than the evidence names")


def _legacy(certificate: bytes, *, csr: bytes, ueid: Ueid, site: Site, now: datetime) -> Verdict:
    mac = mac_of(ueid)
    if mac is None or mac not in site.legacy_roots:
        raise Untrusted(Reason.LEGACY_REFUSED, f"no Legacy certificate is accepted of device {ueid}")
    if csr:
        raise Malformed(field="csr", value=f"{len(csr)} bytes", expected="none: a Legacy certificate names no key")
    device = nubificus.verify(certificate, roots={mac: site.legacy_roots[mac]}, now=now)
    return site.judge(device) or device


def _refused(error: Malformed | Untrusted) -> Refused:
    return Refused(reason=Reason(error.reason), message=str(error))
