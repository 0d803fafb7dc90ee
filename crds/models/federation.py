"""A trust domain that this one is federated with: one key of ConfigMap `fluidos-edge-federation`, named after it.

The words are those of SPIRE's ClusterFederatedTrustDomain.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from crds.models.written import Written

CONFIG_MAP: Final = "fluidos-edge-federation"
MAX_PEERS: Final = 24


class FederatedTrustDomain(Written):
    """Where its bundle is, and how its endpoint is known before.

    `bundleEndpointURL` and `endpointSPIFFEID` go together (profile `https_spiffe`). Without them the bundle is what is
    written here, for as long as it is written here.
    """

    bundle_endpoint_url: Annotated[str | None, Field(alias="bundleEndpointURL", max_length=2048)] = None
    endpoint_spiffe_id: Annotated[str | None, Field(alias="endpointSPIFFEID", max_length=2048)] = None
    trust_domain_bundle: str | dict[str, Any]
    """The first bundle: certificates in PEM, or a SPIFFE bundle as text or as it is."""

    @field_validator("bundle_endpoint_url")
    @classmethod
    def _is_https(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                url = urlsplit(value)
                fits = url.scheme == "https" and url.hostname and url.port != 0 and "@" not in url.netloc
            except ValueError:
                fits = False
            if not fits:
                raise ValueError("https://host[:port][/path] without a user")
        return value
