"""The demo's tables: what was found, asked, bound and delivered."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from crds.models.sensorclaim import SensorClaimSpec
from edge_resource_manager.domain import wire
from edge_resource_manager.domain.matching import Candidate, Fails, Need, judge
from scripts.demo.inventory import UNITS
from scripts.demo.observe import Offer
from scripts.demo.progress import ClaimProgress
from scripts.demo.report import Halted, Report, Repurposed, TargetOutcome, plot
from scripts.demo.story import Story
from scripts.demo.trust import LostTrust


def flavors(console: Console, offers: Sequence[Offer]) -> None:
    """What was found."""
    table = _table(
        "Found: Sensor flavors", "provider", "device", "sensor", "board", "MCU", "measures", "latency", "trust"
    )
    for offer in offers:
        sensor, board = offer.view.sensor, offer.view.board
        measured = ", ".join(each.type for each in sensor.measurements)
        latency = _milliseconds(sensor.latency_microseconds)
        tier = offer.view.trust.tier if offer.view.trust else "None"
        table.add_row(offer.provider.name, offer.device, sensor.model, board.name, board.mcu, measured, latency, tier)
    console.print(table)


def kubectl(console: Console, story: Story) -> None:
    """What a person with kubectl sees on the first provider."""
    command = ["--context", story.providers[0].cluster.context, "get", "leafdevices,flavors", "--all-namespaces"]
    console.print(f"\n[bold]$ kubectl {' '.join(command)}[/bold]")
    shown = subprocess.run(
        [story.kubectl, "--kubeconfig", story.kubeconfig, *command],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    console.print(shown.stdout + shown.stderr, markup=False, soft_wrap=True)


def outcome(console: Console, story: Story, report: Report) -> None:
    """What was asked, bound and delivered, why, and how it looked."""
    asked = _table("Asked and bound", "claim", "on", "asks for", "got", "bound", "first reading")
    for each, claim in zip(story.progress, report.claims, strict=True):
        got = "\n".join(f"{offer.device} {offer.view.sensor.model} ({offer.provider.name})" for offer in each.bound)
        bound, first = _seconds(claim.seconds_to_bound), _seconds(claim.seconds_to_first_message)
        asked.add_row(claim.name, claim.cluster, each.ask.sentence, got, bound, first)
    console.print(asked)
    for each in story.progress:
        if "limits" in each.ask.spec:
            _why(console, each, story.offers)
    if any(target.published for target in report.targets):
        _delivered(console, story, report)
        _plot(console, story)


def lost(console: Console, lost: LostTrust) -> None:
    """What became of the device that was tampered with."""
    table = _table(f"Tampered with: {lost.device}", "what", "came of it")
    table.add_row("attested", f"no: {lost.reason}")
    table.add_row("last reading", f"{lost.seconds:.2f} s after it was tampered with")
    for name, said in lost.claims.items():
        table.add_row(f"claim {name}", said)
    console.print(table)


def repurposed(console: Console, made: Repurposed, halted: Halted | None) -> None:
    """What was flashed, and what was not."""
    table = _table("Flashed", "device", "firmware", "came of it")
    table.add_row(
        made.device,
        f"{made.before} → {made.after}",
        f"attested and bound; first reading {made.seconds_to_first_message:.2f} s after the claim",
    )
    if halted is not None:
        table.add_row(halted.device, halted.rollout, f"{halted.state} {halted.reason}: {halted.message}")
        table.add_row(f"{halted.others} others", halted.rollout, f"{halted.untouched} untouched")
    console.print(table)


def _delivered(console: Console, story: Story, report: Report) -> None:
    delivered = _table(
        "Delivered",
        *("target", "encoding", "published", "delivered", "signed", "duplicates", "lost", "p50 ms", "p99 ms"),
        right=2,
    )
    for each, endpoint, target in _targets(story, report):
        numbers = [target.published, target.delivered, target.signed, target.duplicates, target.lost]
        times = [target.p50_milliseconds, target.p99_milliseconds]
        encoding = each.ask.endpoints[endpoint]
        delivered.add_row(
            target.name, encoding, *map(str, numbers), *("-" if it is None else f"{it:.1f}" for it in times)
        )
    console.print(delivered)


def _targets(story: Story, report: Report) -> Iterator[tuple[ClaimProgress, str, TargetOutcome]]:
    by_name = {target.name: target for target in report.targets}
    for each in story.progress:
        for endpoint in each.ask.endpoints:
            yield each, endpoint, by_name[each.ask.target(endpoint)]


def _why(console: Console, progress: ClaimProgress, offers: Sequence[Offer]) -> None:
    """The claim against each flavor of the type that it asks for, judged as the manager judges."""
    need = Need.of(SensorClaimSpec.model_validate(progress.ask.document("http://sink")["spec"], strict=False))
    table = _table(f"Why: {progress.ask.name}", "device", "sensor", "latency", "verdict")
    bound = {offer.name for offer in progress.bound}
    for offer in offers:
        sensor = offer.view.sensor
        if all(each.type != need.sensor.type for each in sensor.measurements):
            continue
        verdict = judge(need, _candidate(offer))
        if isinstance(verdict, Fails):
            said = "no: " + "; ".join(map(str, verdict.misses))
        else:
            said = f"fits, {float(verdict.margin):.0%} below the limit" + ("; bound" if offer.name in bound else "")
        table.add_row(offer.device, sensor.model, _milliseconds(sensor.latency_microseconds), said)
    console.print(table)


def _candidate(offer: Offer) -> Candidate:
    spec = offer.flavor.spec
    return Candidate(
        flavor=offer.name,
        provider=offer.provider.name,
        address=offer.provider.gateway,
        cluster=spec.provider_id,
        view=offer.view,
        available=spec.availability,
        timestamp=datetime.now(UTC),
        price=wire.Price(amount=spec.price.amount, currency=spec.price.currency, period=spec.price.period),
    )


def _plot(console: Console, story: Story) -> None:
    """One sensor's readings, as they arrived at the first target that has some."""
    for progress in (each for each in story.progress if each.bound):
        offer = progress.bound[0]
        for endpoint, received in progress.received.items():
            points = [
                (it.at, it.value)
                for reading, it in received.arrivals.items()
                if reading in progress.owed
                and it.value is not None
                and (it.device, it.sensor) == (offer.device, offer.view.sensor.model)
            ]
            if points:
                measured = offer.view.sensor.measurements[0].type
                own = story.options.replay
                what = f"{own.name} as {offer.device} sent it" if own else f"{measured} of {offer.device}"
                console.print(f"\n[bold]{what}, as it arrived at {progress.ask.target(endpoint)}[/bold]")
                for line in plot(points, unit="" if own else UNITS.get(measured, "")):
                    console.print(line, markup=False)
                return


def _table(title: str, *columns: str, right: int | None = None) -> Table:
    """`right`: the first column of numbers."""
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(
            column, justify="right" if right is not None and index >= right else "left", header_style="dim"
        )
    return table


def _milliseconds(microseconds: int | None) -> str:
    return "" if microseconds is None else f"{microseconds / 1000:g} ms"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"
