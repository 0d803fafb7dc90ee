"""Who may speak at the relay's listener, and of what: of a verified SPIFFE ID and what the node's LeafDevices say.

A device publishes on the topics of its sensors and on all of `device/<ueid>/`, hears its commands and what attestation
answers it, and nothing else; the node's mapper publishes for devices that the edge agent vouches for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from pydantic import Field

from crds.models.base import Model
from crds.models.leafdevice import LeafDevice
from spire.domain.authorization import Authorize
from spire.domain.errors import Reason, Untrusted
from spire.domain.publishers import UEID, mapper_account, publishers
from spire.domain.spiffe_id import SpiffeId, TrustDomain

ANSWERS = ("challenge", "svid")


class Grant(Model):
    """What one account may do, and until when."""

    topics: frozenset[str] = frozenset()
    until: datetime | None = None


class Grants(Model):
    """All accounts of a node. The relay keeps it on disk: devices publish on while the API server is away."""

    accounts: dict[str, Grant] = Field(default_factory=dict)

    def of(self, account: str, *, now: datetime) -> Grant | None:
        """What an account may do now; None where there is no such account, or its proof has ended."""
        grant = self.accounts.get(account)
        return None if grant is None or (grant.until is not None and grant.until <= now) else grant


def grants(devices: Iterable[LeafDevice], *, node: str, agent: SpiffeId, now: datetime) -> Grants:
    """What the LeafDevices of a node, and who is believed of them, grant."""
    found = publishers(devices, node=node, agent=agent, now=now)
    mapper = mapper_account(node)
    return Grants(
        accounts={
            # A topic of the mapper ends with its device, the mapper itself does not.
            name: Grant(topics=topics, until=None if name == mapper else found.ends.get(name))
            for name, topics in found.topics.items()
        }
    )


def account_of(peer: SpiffeId, *, trust_domain: TrustDomain, node: str) -> str:
    """The account of a peer, which is the common name that the issuer gave it.

    Raises:
        Untrusted: neither a device nor the node's mapper, or of another trust domain.
    """
    if peer.trust_domain == trust_domain:
        match peer.path.split("/"):
            case ["", "device", ueid, "app", _] if UEID.fullmatch(ueid):
                return ueid
            case ["", "mapper", name] if name == node:
                return mapper_account(node)
            case _:
                pass
    expected = f"spiffe://{trust_domain}/device/<ueid>/app/<application> or /mapper/{node}"
    raise Untrusted(Reason.PEER_REFUSED, f"the peer is {peer}, expected {expected}")


def accounts_only(*, trust_domain: TrustDomain, node: str) -> Authorize:
    """The policy of the listener's handshakes: who can have an account."""

    def authorize(peer: SpiffeId) -> None:
        account_of(peer, trust_domain=trust_domain, node=node)

    return authorize


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a connected client may do.

    Attributes:
        account: its name.
        topics: it may publish on; None is a bench without identities: on all.
    """

    account: str
    topics: frozenset[str] | None

    def may_publish(self, topic: str) -> bool:
        """Whether it may publish on a topic."""
        if self.topics is None:
            return not topic.startswith("$")
        return topic in self.topics or (self._is_device and topic.startswith(f"device/{self.account}/"))

    def may_subscribe(self, pattern: str) -> bool:
        """Whether it may hear what a topic filter asks for: its commands, or a part of them, and its own answers."""
        if not self._is_device:
            return False
        commands = f"device/{self.account}/command"
        answers = (f"attest/{self.account}/{answer}" for answer in ANSWERS)
        return pattern == commands or pattern.startswith(f"{commands}/") or pattern in answers

    @property
    def _is_device(self) -> bool:
        return UEID.fullmatch(self.account) is not None


def is_pattern(text: str) -> bool:
    """Whether a text is a topic filter: wildcards are whole levels, and `#` is the last (MQTT 5.0, 4.7.1)."""
    levels = text.split("/")
    return (
        bool(text)
        and "\0" not in text
        and "#" not in "".join(levels[:-1])
        and all(level in {"+", "#"} or not {"+", "#"} & set(level) for level in levels)
    )


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic filter covers a topic; `#` covers its parent, too (4.7.1.2)."""
    wanted, levels = pattern.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        if len(levels) < len(wanted):
            return False
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(one in {"+", other} for one, other in zip(wanted, levels, strict=True))


class Pace:
    """A bucket of tokens that may be overdrawn: what came is taken, and the debt says how long to read nothing."""

    def __init__(self, *, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._at = 0.0

    def spend(self, tokens: float, *, now: float) -> float:
        """Take tokens at a time in seconds; how many seconds to wait until the bucket is out of debt."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._per_second) - tokens
        self._at = now
        return max(0.0, -self._tokens / self._per_second)
