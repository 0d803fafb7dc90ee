"""Which accounts the broker of a node has, and what each may do: of the node's LeafDevices and their trust alone.

An account is named by the common name of a certificate, and has one role of the same name. Where nothing is said,
nothing is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from crds.models.leafdevice import LeafDevice
from crds.models.trust import Trust
from spire.domain.publishers import UEID, RefusedTopic, mapper_account, publishers
from spire.domain.spiffe_id import SpiffeId


class Access(StrEnum):
    """What an account does with a topic, in the words of mosquitto's dynamic-security plug-in."""

    SEND = "publishClientSend"
    RECEIVE = "publishClientReceive"
    SUBSCRIBE = "subscribePattern"


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One thing that a role may do, or (it weighs more) may not."""

    access: Access
    topic: str
    allow: bool = True


Rights = frozenset[Right]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be.

    Attributes:
        accounts: by name.
        refused: topics that nobody, or somebody else, may publish on.
        until: when the first proof ends, and with it an account.
    """

    accounts: Mapping[str, Rights]
    refused: tuple[RefusedTopic, ...]
    until: datetime | None


def relay_account(node: str) -> str:
    """Common name of the node's relay."""
    return f"relay.{node}"


def is_ueid(text: str) -> bool:
    """Whether a text is a UEID as hex: then the account of this name is the agent's to keep."""
    return UEID.fullmatch(text) is not None


def plan(
    devices: Iterable[LeafDevice], *, node: str, agent: SpiffeId, distrusted: Mapping[str, Trust], now: datetime
) -> Plan:
    """The accounts of a node.

    Args:
        devices: the LeafDevices of the node.
        node: its name.
        agent: who speaks for devices that cannot prove themselves.
        distrusted: by UEID, what a status says that is known to be wrong and not yet rewritten.
        now: the time.
    """
    found = publishers(
        devices, node=node, agent=agent, now=now, distrusted=lambda leaf: is_distrusted(leaf, distrusted)
    )
    accounts = {name: {Right(Access.SEND, topic) for topic in topics} for name, topics in found.topics.items()}
    for name in accounts.keys() - {mapper_account(node)}:
        accounts[name] |= _own_topics(name)
    accounts[relay_account(node)] = {
        Right(Access.SUBSCRIBE, "#"),
        Right(Access.RECEIVE, "#"),
        Right(Access.RECEIVE, "attest/#", allow=False),
        Right(Access.SEND, "device/+/command"),
    }
    return Plan(
        accounts={name: frozenset(rights) for name, rights in accounts.items()},
        refused=found.refused,
        until=min(found.ends.values(), default=None),
    )


def is_distrusted(leaf: LeafDevice, distrusted: Mapping[str, Trust]) -> bool:
    """Whether the status still says what is known to be wrong."""
    trust = leaf.status.trust if leaf.status else None
    return trust is not None and distrusted.get(leaf.spec.ueid or "") == trust


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Delete the account; its connection is cut."""

    name: str


@dataclass(frozen=True, slots=True)
class Amend:
    """Give the account other rights; its connection stays."""

    name: str
    rights: Rights


@dataclass(frozen=True, slots=True)
class Admit:
    """Make the account."""

    name: str
    rights: Rights


Step = Withdraw | Amend | Admit
Held = Mapping[str, Rights | None]
"""What the broker has, by name; None where it is not in order (a client without its role, disabled, in a group ...)."""


def steps(held: Held, wanted: Mapping[str, Rights]) -> list[Step]:
    """What makes the broker's accounts those wanted, the most urgent first. Accounts of other people stay."""
    surplus = [name for name in held if name not in wanted and is_ueid(name)]
    broken = [name for name in held if name in wanted and held[name] is None]
    changes: list[Step] = [Withdraw(name) for name in sorted([*surplus, *broken])]
    for name, rights in sorted(wanted.items(), key=lambda item: item[0]):
        before = held.get(name)
        if before is None:
            changes.append(Admit(name, rights))
        elif before != rights:
            changes.append(Amend(name, rights))
    return sorted(changes, key=_urgency)


def _urgency(step: Step) -> int:
    """What takes rights away goes first."""
    return 0 if isinstance(step, Withdraw) else 1 if isinstance(step, Amend) else 2


def _own_topics(ueid: str) -> set[Right]:
    return {Right(access, f"{root}/{ueid}/#") for access in Access for root in ("attest", "device")}
