"""Flags and environment of the gateway."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from crds.kube.process import EgressSettings, listening_address
from crds.models.fluidos import Price
from edge_resource_manager.domain.reservations import SaleTerms
from spire.workload import IdentitySettings

Seconds = Annotated[int, Field(ge=1, le=366 * 86400)]


class GatewaySettings(EgressSettings, IdentitySettings):
    """`python -m edge_resource_manager.gateway`: offers this cluster's flavors to other clusters and sells them."""

    listen: str = Field(default="0.0.0.0:3004", description="host:port of REAR; port 0 takes a free one and logs it")
    reservation_seconds: Seconds = Field(default=60, description="how long RESERVE holds a place")
    contract_seconds: Seconds = Field(default=86400, description="how long a contract lives unless it is renewed")
    max_consumers: Annotated[int, Field(ge=1, le=10000)] = Field(
        default=16, description="how many may share a sensor that does not say it itself"
    )
    price_amount: str = Field(default="", description="of sensors whose Flavor the API server refused")
    price_currency: str = ""
    price_period: str = ""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`.

        Raises:
            InvalidField: it is not host:port.
        """
        return listening_address(self.listen, example="0.0.0.0:3004")

    @property
    def terms(self) -> SaleTerms:
        """How this provider sells."""
        return SaleTerms(
            reservation=timedelta(seconds=self.reservation_seconds),
            contract=timedelta(seconds=self.contract_seconds),
            max_consumers=self.max_consumers,
        )

    @property
    def price(self) -> Price:
        """Of the flavors that are offered from LeafDevices."""
        return Price(amount=self.price_amount, currency=self.price_currency, period=self.price_period)
