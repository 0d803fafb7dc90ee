"""Figures of the edge agent, in one place."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

CONNECTED = Gauge("fluidos_edge_agent_connected", "1 while a broker's connection stands, by broker.", ["broker"])
DROPPED = Counter(
    "fluidos_edge_agent_dropped_messages_total",
    "Messages of devices that were not answered, by why (crowd, rate, size, retained, topic).",
    ["why"],
)
CARRIED = Counter(
    "fluidos_edge_agent_exchanges_total",
    "Attestation messages that were answered, by step (hello, evidence, reminder) and outcome (the HTTP status of the "
    "issuer, unknown, unavailable).",
    ["step", "outcome"],
)
ACCOUNTS = Gauge("fluidos_edge_agent_accounts", "Accounts that the broker is to have.")
STEPS = Counter(
    "fluidos_edge_agent_account_changes_total",
    "Changes of the broker's accounts, by kind (Withdraw, Amend, Admit).",
    ["kind"],
)
REFUSED_TOPICS = Gauge(
    "fluidos_edge_agent_refused_topics", "Topics of LeafDevices that their publisher has no right to."
)
