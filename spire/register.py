"""`python -m spire.register`: the entries that our managers, relays and agents need on a SPIRE server.

May be repeated: what is there already becomes what it should be. Run it where the server's socket is.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from crds.errors import EdgeError, InvalidField
from crds.models.fluidos import FLUIDOS_NAMESPACE
from spire.adapters.spire_server import Entry, spire_server
from spire.domain.entitlement import MANAGERS, OF_NODES
from spire.domain.spiffe_id import SpiffeId, TrustDomain


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 when every entry is there, 1 when SPIRE refused or did not answer, 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        wanted = entries(
            trust_domain=TrustDomain(options.trust_domain),
            parent=SpiffeId.parse(options.parent),
            node=options.node,
            accounts=options.account,
            federates_with=tuple(TrustDomain(name) for name in options.federates_with),
            selectors=options.selector,
        )
    except InvalidField as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        asyncio.run(_put(options.socket, wanted))
    except EdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def entries(
    *,
    trust_domain: TrustDomain,
    parent: SpiffeId,
    node: str | None,
    accounts: Sequence[str],
    federates_with: tuple[TrustDomain, ...],
    selectors: Sequence[str],
) -> list[Entry]:
    """What is registered.

    Args:
        trust_domain: of the server.
        parent: the agent, or the alias of agents, whose workloads these are.
        node: registers relay, agent, runner, mapper and broker of this sensor node instead of the managers.
        accounts: which of them; all where there are none.
        federates_with: whose bundles the managers get.
        selectors: instead of the pods' namespace and ServiceAccount, with `{account}` in it.

    Raises:
        InvalidField: a selector is none, or an account none of these.
    """
    if node is None:
        paths = {account: ("manager", account) for account in MANAGERS}
    else:
        paths = {account: (segment, node) for account, segment in OF_NODES.items()}
    unknown = set(accounts) - paths.keys()
    if unknown:
        raise InvalidField(field="--account", value=sorted(unknown), expected=f"of {', '.join(paths)}")
    pattern = list(selectors) or [f"k8s:ns:{FLUIDOS_NAMESPACE}", "k8s:sa:{account}"]
    found = [
        Entry(
            spiffe_id=trust_domain.spiffe_id(*path),
            parent=parent,
            selectors=tuple(each.replace("{account}", account) for each in pattern),
            federates_with=federates_with,
        )
        for account, path in paths.items()
        if not accounts or account in accounts
    ]
    for entry in found:
        entry.message()  # says what is wrong before anything is sent
    return found


async def _put(socket: str, wanted: Sequence[Entry]) -> None:
    async with spire_server(socket) as server:
        for entry in wanted:
            await server.put_entry(entry)
            print(f"{entry.spiffe_id}  {' '.join(entry.selectors)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m spire.register", description="Register fluidos-edge's workloads with a SPIRE server."
    )
    parser.add_argument(
        "--socket", default="/run/spire-server/private/api.sock", help="of the server (%(default)s)", metavar="PATH"
    )
    parser.add_argument("--trust-domain", required=True, metavar="NAME")
    parser.add_argument("--parent", required=True, metavar="SPIFFE-ID", help="the agent, or an alias of agents")
    parser.add_argument(
        "--node", help="register relay, edge agent, flash runner, mapper and broker of this sensor node instead"
    )
    parser.add_argument(
        "--account", action="append", default=[], metavar="NAME", help="only this of them; may be repeated"
    )
    parser.add_argument("--federates-with", action="append", default=[], metavar="NAME", help="may be repeated")
    parser.add_argument(
        "--selector",
        action="append",
        default=[],
        metavar="TYPE:VALUE",
        help="instead of k8s:ns and k8s:sa; {account} stands for the ServiceAccount; may be repeated",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
