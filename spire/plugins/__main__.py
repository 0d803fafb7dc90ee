"""`python -m spire.plugins server-attestor|agent-attestor|composer`: what SPIRE's `plugin_cmd` starts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from spire.plugins import host
from spire.plugins.agent_attestor import AgentAttestor
from spire.plugins.attestor import ServerAttestor
from spire.plugins.composer import Composer

PLUGINS: Final[dict[str, Callable[[], host.Plugin]]] = {
    "server-attestor": ServerAttestor,
    "agent-attestor": AgentAttestor,
    "composer": Composer,
}


def main() -> int:
    """The command."""
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in PLUGINS:
        sys.stderr.write(f"usage: python -m spire.plugins {'|'.join(PLUGINS)}\n")
        return 2
    return host.run(PLUGINS[name]())


if __name__ == "__main__":
    sys.exit(main())
