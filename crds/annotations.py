"""Annotations that one manager writes and another one reads."""

from __future__ import annotations

from typing import Final

BUYER_SPIFFE_ID: Final = "edge.fluidos.eu/buyer-spiffe-id"
"""On a Transaction or Contract: who bought, as proven by TLS. Its trust domain is that of the buyer's endpoints."""

INSECURE: Final = "edge.fluidos.eu/insecure"
"""On a Transaction or Contract, `true`: nobody proved anything."""

SIGNATURE: Final = "edge.fluidos.eu/contract-signature"
"""On a Contract: the seller's signature, see docs/rear.md."""

SPIFFE_ID: Final = "edge.fluidos.eu/spiffe-id"
"""On a KnownCluster: the SPIFFE ID that its gateway must prove."""
