"""Signs contracts with the gateway's SVID, as they travel."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from crds.annotations import SIGNATURE
from crds.models.fluidos import Contract
from edge_resource_manager.domain import signature
from edge_resource_manager.domain.conversion import contract_to_wire
from spire.identity import IdentitySource


class Notary:
    """Of one gateway.

    Args:
        identity: of the gateway; without one nothing is signed.
        clock: now, in UTC.

    Raises:
        Terminal: its key is of a kind that contracts are not signed with.
    """

    def __init__(self, identity: IdentitySource | None, *, clock: Callable[[], datetime]) -> None:
        self._identity = identity
        self._clock = clock
        if identity is not None:
            signature.sign({}, svid=identity.current.svid, now=clock())

    def signed(self, contract: Contract) -> Contract:
        """The contract with a signature over what it says now."""
        if self._identity is None:
            return contract
        mark = signature.sign(contract_to_wire(contract).dump(), svid=self._identity.current.svid, now=self._clock())
        metadata = contract.metadata
        return contract.model_copy(
            update={"metadata": metadata.model_copy(update={"annotations": {**metadata.annotations, SIGNATURE: mark}})}
        )

    def is_current(self, contract: Contract) -> bool:
        """Whether its signature is of the SVID that TLS shows today: buyers need not keep certificates that expired."""
        if self._identity is None:
            return True
        return signature.is_by(contract.metadata.annotations.get(SIGNATURE, ""), self._identity.current.svid)
