"""Reports of thousands of routes, at a rate that the API server does not notice."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

from crds.errors import Terminal
from crds.models.dataroute import RelayReport
from router_manager.domain.table import RouteName
from router_manager.relay.reporter import Reports
from tests.relay.support import endpoint, route, table, until
from tests.relay.test_pump import URL, Scripted, site


class Counting:
    """Keeps which routes were reported."""

    def __init__(self, *, refused: bool = False) -> None:
        self.refused = refused
        self.reports: Counter[str] = Counter()

    async def report(self, route: RouteName, report: RelayReport | None) -> None:
        assert report is None or report.delivered == 1
        self.reports[route.name] += 1
        if self.refused:
            raise Terminal("no such field")


async def test_first_deliveries_of_many_routes_are_reported_at_a_bounded_rate_and_each_once(tmp_path: Path) -> None:
    to = Counting()
    routes = [route(endpoint(URL), uid=f"route-{number}") for number in range(60)]
    async with site(tmp_path, Scripted(), table(*routes)) as one:
        one.receive(b'{"id":1}')
        await until(lambda: all(pump.statistics.delivered for pump in one.lanes.pumps.values()))
        reports = Reports(pumps=one.lanes.by_route, node="edge-1", insecure=False, trouble=str, to=to)
        sums = []
        for second in range(4):
            await reports._round(float(second))
            sums.append(to.reports.total())
        assert sums[0] <= 21
        assert max(after - before for before, after in pairwise(sums)) <= 20
        assert sums[-1] == 60 == len(to.reports)
        one.apply(table(routes[0]))
        for second in range(20, 24):
            await reports._round(float(second))
        assert to.reports == {"route-0": 1} | {f"route-{number}": 2 for number in range(1, 60)}, "those that went"


async def test_reports_that_are_refused_do_not_hold_up_others(tmp_path: Path) -> None:
    to = Counting(refused=True)
    routes = [route(endpoint(URL), uid=f"route-{number}") for number in range(60)]
    async with site(tmp_path, Scripted(), table(*routes)) as one:
        one.receive(b'{"id":1}')
        await until(lambda: all(pump.statistics.delivered for pump in one.lanes.pumps.values()))
        reports = Reports(pumps=one.lanes.by_route, node="edge-1", insecure=False, trouble=str, to=to)
        for second in range(4):
            await reports._round(float(second))
        assert len(to.reports) == 60
