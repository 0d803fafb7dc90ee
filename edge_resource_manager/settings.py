"""Flags of the manager of devices, flavors and claims."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from crds.errors import InvalidField
from crds.kube.manager import ManagerSettings
from crds.models.fluidos import Location, NodeIdentity, Price
from edge_resource_manager.adapters.multicast import MulticastSettings
from edge_resource_manager.claiming import ClaimSettings
from edge_resource_manager.discovery import DiscoverySettings
from edge_resource_manager.domain.flavors import Terms
from edge_resource_manager.domain.liveness import Graces
from spire.workload import IdentitySettings

Seconds = Annotated[float, Field(ge=0, le=86400)]


class EdgeSettings(ManagerSettings, IdentitySettings):
    """`python -m edge_resource_manager`."""

    sensor_label: str = Field(
        default="node-role.fluidos.eu/sensors", description="label of nodes whose sensors are offered"
    )
    sensor_label_value: str = "true"
    node_grace_seconds: Seconds = Field(
        default=30, description="how long a node may be lost before its flavors are unavailable"
    )
    device_grace_seconds: Seconds = Field(default=60, description="how long a device that reports may be silent")
    price_amount: str = ""
    price_currency: str = ""
    price_period: str = ""
    latitude: str | None = Field(default=None, description="said with every flavor, as are longitude, country and city")
    longitude: str | None = None
    country: str | None = None
    city: str | None = None

    provider_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        default=2, description="limit of every request to another cluster"
    )
    look_seconds: Annotated[float, Field(ge=1, le=3600)] = Field(
        default=30, description="how often a claim is looked at when nothing seems to happen"
    )
    provider_grace_seconds: Seconds = Field(
        default=60, description="how long a provider may be silent before substitutes are bought elsewhere"
    )

    auto_discovery: bool = Field(
        default=False,
        description="find other clusters by FLUIDOS' LAN multicast, and be found; whoever is on the LAN can",
    )
    announce: bool = Field(default=True, description="be found; a cluster that only buys need not be")
    multicast_address: str = Field(default="239.11.11.1:4000", description="group:port of the announcements")
    multicast_interface: str = Field(default="0.0.0.0", description="IPv4 address of the interface to use")
    multicast_ttl: Annotated[int, Field(ge=0, le=255)] = 1

    @property
    def multicast(self) -> MulticastSettings:
        """What LAN discovery needs of these.

        Raises:
            InvalidField: the address is not group:port.
        """
        group, _, port = self.multicast_address.rpartition(":")
        if not group or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InvalidField(
                field="--multicast-address",
                value=self.multicast_address,
                expected="group:port, such as 239.11.11.1:4000",
            )
        return MulticastSettings(
            group=group,
            port=int(port),
            interface=self.multicast_interface,
            ttl=self.multicast_ttl,
            announce=self.announce,
        )

    @property
    def claims(self) -> ClaimSettings:
        """What claims need of these."""
        return ClaimSettings(
            request=self.provider_seconds, look=self.look_seconds, provider_grace=self.provider_grace_seconds
        )

    def discovery(self, identity: NodeIdentity) -> DiscoverySettings:
        """What discovery needs of these, for the node that this is."""
        place = Location(latitude=self.latitude, longitude=self.longitude, country=self.country, city=self.city)
        return DiscoverySettings(
            terms=Terms(
                identity=identity,
                price=Price(amount=self.price_amount, currency=self.price_currency, period=self.price_period),
                location=place if place != Location() else None,
            ),
            insecure=self.insecure,
            label=self.sensor_label,
            value=self.sensor_label_value,
            graces=Graces(
                node=timedelta(seconds=self.node_grace_seconds), device=timedelta(seconds=self.device_grace_seconds)
            ),
        )
