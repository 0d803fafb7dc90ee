"""Who publishes for devices that cannot prove themselves, as a mapper on their node does: with an SVID of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crds.errors import InvalidField
from scripts.simulator.publisher import Publisher
from scripts.sink.identity import read_identity
from scripts.testbed.console import say
from spire.domain.authorization import in_domain
from spire.identity import FixedIdentity, Identity
from spire.tls import client_context


class VouchedPublisher(Publisher):
    """One connection for many devices.

    Args:
        broker: `mqtts://host:port`.
        directory: `svid.pem`, `key.pem` and `bundle.pem`, as the workload helper writes and renews them.

    Raises:
        InvalidField: the files are not there, or hold no identity.
    """

    def __init__(self, broker: str, directory: Path) -> None:
        self._directory = directory
        self._source = FixedIdentity(_read(directory))
        trust_domain = self._source.current.svid.spiffe_id.trust_domain
        context = client_context(self._source, authorize=in_domain(trust_domain, path="/broker/"))
        super().__init__(broker, context=context)
        self._client.on_pre_connect = self._on_pre_connect

    def _on_pre_connect(self, *_: Any) -> None:
        """Connections live on when the files are renewed: a new one alone needs what they hold now."""
        try:
            self._source.replace(_read(self._directory))
        except InvalidField as error:
            say(f"simulator: {error}; keeping the last identity")


def _read(directory: Path) -> Identity:
    try:
        return read_identity(directory)
    except (OSError, ValueError) as error:
        raise InvalidField(field="svid", value=str(directory), expected=f"files of an SVID ({error})") from error
