"""What the relay has done, written into DataRoute.status.relays at a bounded rate.

The first delivery of a route is reported at once, since people wait for it; after that a route is reported every ten
seconds at most, more rarely where there are many, and only when something changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog

from crds.errors import Retryable, Terminal
from crds.kube.client import Kube, NotFound
from crds.models.dataroute import DataRoute, RelayReport
from router_manager.domain.admission import Pace
from router_manager.domain.encoding import rfc3339
from router_manager.domain.table import RouteName
from router_manager.relay.inlet.server import Forwarding
from router_manager.relay.pump import Pump
from router_manager.relay.statistics import Latencies

log = structlog.get_logger(__name__)

_INTERVAL_SECONDS = 10.0
_MAX_REPORTS_PER_SECOND = 20
"""Of all routes together: readings must not cost the API server anything."""
_LOOK_SECONDS = 1.0
_MAX_MESSAGE = 1024
_AT_A_TIME = 100


Routes = Mapping[RouteName, Sequence[Pump]]


class RouteReporter(Protocol):
    """Where reports go."""

    async def report(self, route: RouteName, report: RelayReport | None) -> None:
        """Set this relay's entry, or remove it.

        Raises:
            Retryable: the API server is away.
            Terminal: it refuses the report.
        """


class KubeReporter:
    """Server-side apply of one entry of the list, with a field manager a node: relays do not touch each other's."""

    def __init__(self, kube: Kube, *, node: str) -> None:
        self._kube = kube
        self._manager = f"relay-{node}"[:128]

    async def report(self, route: RouteName, report: RelayReport | None) -> None:
        """See RouteReporter."""
        status = {} if report is None else {"relays": [report.dump()]}
        try:
            await self._kube.apply_status(
                DataRoute, name=route.name, namespace=route.namespace, status=status, manager=self._manager
            )
        except NotFound:
            log.debug("the route is gone", route=str(route))


class _Sent(NamedTuple):
    at: float
    report: RelayReport
    latencies: Latencies


def compose(
    pumps: Sequence[Pump], *, node: str, insecure: bool, trouble: str, now: float, sent: _Sent | None
) -> RelayReport:
    """One route's report: the sum of its lanes; rate and latency since the last one, whose latency stays otherwise."""
    statistics = [pump.statistics for pump in pumps]
    delivered = sum(one.delivered for one in statistics)
    latest = Latencies.merged(one.latencies for one in statistics)
    rate = 0
    p50 = p99 = None
    if sent is not None:
        latest = latest.since(sent.latencies)
        rate = max(0, int(1000 * (delivered - sent.report.delivered) / max(now - sent.at, _LOOK_SECONDS)))
        p50, p99 = sent.report.p50_microseconds, sent.report.p99_microseconds
    last_ns = max(one.last_delivered_ns for one in statistics)
    oldest_ns = min((pump.lane.oldest_ns for pump in pumps if pump.lane.oldest_ns is not None), default=None)
    return RelayReport(
        node=node,
        delivered=delivered,
        filtered=sum(one.filtered for one in statistics),
        retried=sum(one.retried for one in statistics),
        dead=sum(one.dead for one in statistics),
        expired=sum(one.expired for one in statistics),
        backlog_records=sum(pump.lane.backlog for pump in pumps),
        backlog_bytes=max(pump.lane.backlog_bytes for pump in pumps),
        lag_microseconds=0 if oldest_ns is None else max(0, time.time_ns() - oldest_ns) // 1000,
        rate_millihertz=rate,
        p50_microseconds=latest.percentile(0.5) or p50,
        p99_microseconds=latest.percentile(0.99) or p99,
        last_delivered_time=rfc3339(last_ns) if last_ns else None,
        message=_message(pumps, trouble),
        insecure=insecure or None,
    )


def _message(pumps: Sequence[Pump], trouble: str) -> str:
    problems = [trouble] if trouble else []
    problems += [f"{pump.key.target}: {pump.statistics.problem}" for pump in pumps if pump.statistics.problem]
    damaged = max([pump.lane.damaged for pump in pumps])
    problems += [f"{damaged} places of the spool could not be read"] if damaged else []
    return "; ".join(problems)[:_MAX_MESSAGE]


class Reports:
    """Decides when a route's report is due, and sends it."""

    def __init__(
        self,
        *,
        pumps: Callable[[], Routes],
        node: str,
        insecure: bool,
        trouble: Callable[[], str],
        to: RouteReporter,
        forwarding: Callable[[RouteName], Forwarding] | None = None,
    ) -> None:
        """Prepare.

        Args:
            pumps: of all routes.
            node: whose relay this is.
            insecure: it runs with --insecure.
            trouble: what hinders all routes; empty where nothing does.
            to: where reports go.
            forwarding: what is known of sources behind KubeEdge's router.
        """
        self._pumps = pumps
        self._forwarding = forwarding
        self._node = node
        self._insecure = insecure
        self._trouble = trouble
        self._to = to
        self._sent: dict[RouteName, _Sent] = {}
        self._pace = Pace(per_second=_MAX_REPORTS_PER_SECOND, burst=_MAX_REPORTS_PER_SECOND)

    async def run(self, first_delivery: asyncio.Event) -> None:
        """Report until cancelled."""
        while True:
            await self._round(asyncio.get_running_loop().time())
            first_delivery.clear()
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await first_delivery.wait()
            except TimeoutError:
                pass

    async def _round(self, now: float) -> None:
        routes = self._pumps()
        interval = max(_INTERVAL_SECONDS, len(routes) / _MAX_REPORTS_PER_SECOND)
        # People wait for what was never reported; then for what was reported longest ago.
        due = sorted(routes, key=lambda route: self._sent[route].at if route in self._sent else float("-inf"))
        for number, route in enumerate([*self._sent.keys() - routes.keys(), *due]):
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)  # thousands of routes must not hold readings up
            if self._pace.spend(0, now=now):
                return
            try:
                await self._report_one(route, routes.get(route, ()), now, interval)
            except Retryable as error:
                log.warning("cannot report", error=str(error))
                return

    async def _report_one(self, route: RouteName, pumps: Sequence[Pump], now: float, interval: float) -> None:
        sent = self._sent.get(route)
        if not pumps:
            await self._tell(route, None, now)
            del self._sent[route]
            return
        delivered = sum([pump.statistics.delivered for pump in pumps])
        first = delivered and (sent is None or not sent.report.delivered)
        if sent is not None and not first and now - sent.at < interval:
            return
        if sent is None and not delivered and not _message(pumps, self._trouble()):
            return
        report = compose(pumps, node=self._node, insecure=self._insecure, trouble=self._trouble(), now=now, sent=sent)
        if self._forwarding is not None:
            known = self._forwarding(route)
            report = report.model_copy(update={"missing": known.missing, "silent": known.silent})
        if sent is None or report != sent.report:
            await self._tell(route, report, now)
            self._sent[route] = _Sent(now, report, Latencies.merged(pump.statistics.latencies for pump in pumps))

    async def _tell(self, route: RouteName, report: RelayReport | None, now: float) -> None:
        self._pace.spend(1, now=now)
        try:
            await self._to.report(route, report)
        except Terminal as error:
            # Not tried again before the next one is due: it would hold up those of other routes.
            log.warning("a report is refused", route=str(route), error=str(error))
