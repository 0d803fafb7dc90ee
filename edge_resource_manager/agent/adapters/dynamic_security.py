"""The accounts of a mosquitto, by its dynamic-security plug-in (of 2.0): JSON commands on `$CONTROL` topics.

Three things of that plug-in are to be known here:
- A disabled client whose user name comes from its certificate connects again, and may all that it might before: the
  password check, which alone looks at `disabled`, is skipped. So a client that shall be gone is deleted.
- Deleting a role that a client still has makes the broker crash later. So the client goes first, in the same request.
- Each command rewrites the file of all accounts. So requests are small, and the broker is at its clients in between.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, assert_never

import orjson

from crds.errors import Retryable
from edge_resource_manager.agent.domain.accounts import Access, Admit, Amend, Held, Right, Rights, Step, Withdraw

CONTROL: Final = "$CONTROL/dynamic-security/v1"
RESPONSE: Final = f"{CONTROL}/response"
ANSWER_SECONDS: Final = 10.0

Command = dict[str, Any]
_GONE_ALREADY: Final = frozenset({"Client not found", "Role not found"})


class DynamicSecurity:
    """One request at a time.

    Args:
        send: hands a message to the broker; raises Retryable where it cannot.
    """

    def __init__(self, send: Callable[[str, bytes], None]) -> None:
        self._send = send
        self._turn = asyncio.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[Command]] = {}

    def receive(self, payload: bytes) -> None:
        """Take an answer; those to other administrators, and what is no answer, are left alone."""
        try:
            responses = orjson.loads(payload)["responses"]
            answers = [(str(response.get("correlationData")), response) for response in responses]
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return
        for number, response in answers:
            waiting = self._waiting.get(number)
            if waiting is not None and not waiting.done():
                waiting.set_result(response)

    def lost(self) -> None:
        """The connection ended: what was asked stays without an answer."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Retryable("dynamic-security: the connection ended before the answer"))

    async def held(self) -> Held:
        """What the broker has.

        Raises:
            Retryable: no answer, or none that can be read.
        """
        clients, roles = await self._ask(
            [
                {"command": "listClients", "verbose": True, "count": -1},
                {"command": "listRoles", "verbose": True, "count": -1},
            ]
        )
        try:
            return _held(clients["data"]["clients"], roles["data"]["roles"])
        except (KeyError, TypeError, ValueError) as error:
            raise Retryable(f"dynamic-security: {type(error).__name__} {error} in its lists") from error

    async def apply(self, steps: Iterable[Step]) -> None:
        """Take steps, in one request.

        Raises:
            Retryable: no answer, or a command failed; what the broker has must be asked for again.
        """
        commands = [command for step in steps for command in _commands(step)]
        answers = await self._ask(commands)
        for command, answer in zip(commands, answers, strict=True):
            error = answer.get("error")
            if error and not (command["command"].startswith("delete") and error in _GONE_ALREADY):
                name = command.get("username") or command.get("rolename")
                raise Retryable(f"dynamic-security: {command['command']} {name}: {error}")

    async def _ask(self, commands: Sequence[Command]) -> list[Command]:
        """One request; the answers in its order."""
        async with self._turn:
            numbers = [f"fluidos-edge-{next(self._numbers)}" for _ in commands]
            loop = asyncio.get_running_loop()
            self._waiting = {number: loop.create_future() for number in numbers}
            numbered = [
                {**command, "correlationData": number} for command, number in zip(commands, numbers, strict=True)
            ]
            try:
                self._send(CONTROL, orjson.dumps({"commands": numbered}))
                async with asyncio.timeout(ANSWER_SECONDS):
                    return [await self._waiting[number] for number in numbers]
            except TimeoutError:
                raise Retryable(f"dynamic-security: no answer within {ANSWER_SECONDS:g} s") from None
            finally:
                for waiting in self._waiting.values():
                    waiting.cancel()
                self._waiting = {}


def _commands(step: Step) -> list[Command]:
    match step:
        case Withdraw(name):
            return [{"command": "deleteClient", "username": name}, {"command": "deleteRole", "rolename": name}]
        case Amend(name, rights):
            return [{"command": "modifyRole", "rolename": name, "acls": _acls(rights)}]
        case Admit(name, rights):
            return [
                {"command": "createRole", "rolename": name, "acls": _acls(rights)},
                {"command": "createClient", "username": name, "roles": [{"rolename": name}]},
            ]
        case _:
            assert_never(step)


def _acls(rights: Rights) -> list[Command]:
    """Of several that match a topic the plug-in takes the one with the highest priority."""
    return [
        {"acltype": right.access, "topic": right.topic, "priority": int(not right.allow), "allow": right.allow}
        for right in sorted(rights)
    ]


def _held(clients: Sequence[Mapping[str, Any]], roles: Sequence[Mapping[str, Any]]) -> dict[str, Rights | None]:
    rights = {str(role["rolename"]): _rights(role.get("acls", ())) for role in roles}
    held: dict[str, Rights | None] = dict.fromkeys(rights)
    for client in clients:
        name = str(client["username"])
        alone = [role["rolename"] for role in client.get("roles", ())] == [name]
        in_order = alone and not client.get("groups") and not client.get("disabled") and not client.get("clientid")
        held[name] = rights.get(name) if in_order else None
    return held


def _rights(acls: Sequence[Mapping[str, Any]]) -> Rights | None:
    """None where there is something that is never written here."""
    rights = [
        Right(Access(acl["acltype"]), str(acl["topic"]), bool(acl["allow"])) for acl in acls if acl["acltype"] in _KINDS
    ]
    as_written = len(rights) == len(acls) and all(acl["priority"] == int(not acl["allow"]) for acl in acls)
    return frozenset(rights) if as_written else None


_KINDS: Final = frozenset(Access)
