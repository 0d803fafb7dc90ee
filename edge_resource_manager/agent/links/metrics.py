"""Figures of leased links, in one place."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

LEASED = Gauge("fluidos_edge_agent_leased_links", "Devices that a flash runner holds.")
ENDED = Counter(
    "fluidos_edge_agent_ended_links_total",
    "Links that were refused or ended, by why (a word of crds.models.links.Ended, or RUNNER_LEFT).",
    ["why"],
)
FRAMES = Counter("fluidos_edge_agent_link_frames_total", "Frames of devices (in) and to them (out).", ["direction"])
CUTS = Counter(
    "fluidos_edge_agent_link_connections_cut_total",
    "Connections of runners that were ended, by why (silent, too_many, slow_handshake).",
    ["why"],
)
HANDSHAKES_REFUSED = Counter(
    "fluidos_edge_agent_link_handshakes_refused_total", "Handshakes that came to nothing: not this node's runner."
)
