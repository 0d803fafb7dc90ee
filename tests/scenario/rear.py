"""A buyer that speaks REAR by itself, without a claim behind it."""

from __future__ import annotations

from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import orjson

from scripts.sink.identity import read_identity
from spire.domain.authorization import under
from spire.identity import FixedIdentity
from spire.tls import client_context

BUYER = {"domain": "fluidos.eu", "ID": "walk-in", "IP": "192.0.2.7:3004"}


class Buyer:
    """Of one flavor.

    Args:
        gateway: `host:port`.
        flavor: what it buys.
        sink: where readings go.
        files: of its identity.
    """

    def __init__(self, gateway: str, *, flavor: str, sink: str, files: Path) -> None:
        self._gateway = gateway
        self._tls = client_context(FixedIdentity(read_identity(files)), authorize=under("/manager/rear-gateway"))
        self._flavor = flavor
        self._configuration = {
            "claim": {"name": "walk-in", "namespace": "default", "uid": "5c4e3f5e-0000-4000-8000-000000000001"},
            "endpoints": [{"name": "first", "url": f"{sink}/walk-in.first"}],
            "delivery": "AtLeastOnce",
        }

    def reserve(self) -> str:
        """Hold a place; the transaction."""
        configuration = {"type": "sensor", "data": self._configuration}
        body = {"flavorID": self._flavor, "buyerID": BUYER, "configuration": configuration}
        return str(self._ask("POST", "reservations", body)["transactionID"])

    def release(self, transaction: str) -> None:
        """Give it back."""
        self._ask("DELETE", f"transactions/{transaction}")

    def purchase(self, transaction: str) -> str:
        """Buy; the contract."""
        return str(self._ask("POST", f"transactions/{transaction}/purchase", {})["contractID"])

    def end(self, contract: str) -> None:
        """End a contract."""
        self._ask("DELETE", f"contracts/{contract}")

    def observed(self) -> int:
        """The latency in microseconds that the provider observes of the flavor; 0 where it says nothing."""
        characteristics = self._ask("GET", f"flavors/sensors/{self._flavor}")["type"]["data"]["characteristics"]
        return int(characteristics["properties"]["additional"].get("observedLatencyMicros", 0))

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        connection = HTTPSConnection(self._gateway, timeout=20, context=self._tls)
        try:
            data = None if body is None else orjson.dumps(body)
            connection.request(method, f"/api/v2/{path}", data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        assert 200 <= answer.status < 300, f"{method} {path}: {answer.status} {text.decode()}"
        return orjson.loads(text) if text else None
