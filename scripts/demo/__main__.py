"""`scripts/demo.sh`: the main job from start to end, on control planes of its own. Cleans up after itself."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import orjson
from rich.markup import escape

from crds.errors import EdgeError
from scripts.demo import running, show
from scripts.demo.background import Ready, in_background
from scripts.demo.crew import NotReachedError
from scripts.demo.report import Report
from scripts.demo.stage import Stage
from scripts.demo.story import Options, Story
from scripts.simulator.recordings import replay
from scripts.testbed.api import ApiError
from scripts.testbed.errors import BinaryError
from scripts.testbed.processes import ChildFailedError, exit_on_signals

FAILURES: Final = (ApiError, BinaryError, ChildFailedError, EdgeError, NotReachedError, OSError)
MAX_CLUSTERS: Final = 20


def main() -> int:
    """The command: 0 when every claim was bound and nothing was lost, 1 otherwise, 2 for bad input."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.repurpose and arguments.insecure:
        parser.error("--repurpose needs devices that prove what they run; --insecure has none")
    if arguments.stop:
        return running.stop()
    report_file = arguments.report.resolve()
    try:
        if arguments.replay is not None:
            for complaint in replay(arguments.replay).complaints:
                print(f"{arguments.replay}: {complaint}; skipped", file=sys.stderr)
        write(report_file, Report(ok=False, error="interrupted"))  # that of an earlier run must not pass for ours
    except (EdgeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options = Options(
        consumers=arguments.consumers,
        providers=arguments.providers,
        messages=arguments.messages,
        rate=arguments.rate,
        discover=arguments.auto_discovery,
        replay=arguments.replay and arguments.replay.resolve(),
        insecure=arguments.insecure,
        repurpose=arguments.repurpose,
    )
    try:
        with exit_on_signals():
            if arguments.keep:
                return in_background(lambda ready: _demo(options, report_file=report_file, ready=ready))
            return _demo(options, report_file=report_file)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/demo.sh",
        description="Shows how a claim on a consumer cluster becomes sensor data that arrives, with real processes.",
    )
    parser.add_argument("--consumers", type=_count, default=2, metavar="N", help="consumer clusters (2)")
    parser.add_argument("--providers", type=_count, default=2, metavar="M", help="provider clusters (2)")
    parser.add_argument(
        "--messages", type=_positive, default=100, help="readings of each sensor that are counted (100)"
    )
    parser.add_argument("--rate", type=_rate, default=20.0, help="readings a second of each sensor (20)")
    parser.add_argument("--replay", type=Path, metavar="FILE.csv", help="own recorded data instead of recorded weather")
    parser.add_argument(
        "--insecure", action="store_true", help="without identities and TLS, for a bench; every status says so"
    )
    parser.add_argument("--repurpose", action="store_true", help="have a device flashed into what no device is, too")
    parser.add_argument(
        "--auto-discovery", action="store_true", help="find providers by FLUIDOS' LAN multicast instead of by hand"
    )
    parser.add_argument(
        "--report", type=Path, default=Path("demo-report.json"), metavar="FILE", help="demo-report.json"
    )
    parser.add_argument("--keep", action="store_true", help="leave it running at the end, until --stop")
    parser.add_argument("--stop", action="store_true", help="end a demo that was left running")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return value


def _count(text: str) -> int:
    value = _positive(text)
    if value > MAX_CLUSTERS:
        raise argparse.ArgumentTypeError(f"{text}: expected at most {MAX_CLUSTERS}")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value <= 10_000:
        raise argparse.ArgumentTypeError(f"{text}: expected more than 0 and at most 10000")
    return value


def _demo(options: Options, *, report_file: Path, ready: Ready | None = None) -> int:
    stage = Stage()
    report = Report(ok=False, error="interrupted")
    try:
        with _state() as directory, ExitStack() as stack:
            story = Story(options, stage=stage, directory=directory, stack=stack)
            try:
                story.tell()
                report = story.report()
            except FAILURES as error:
                report = story.report(f"{type(error).__name__}: {error}")
            except BaseException:
                report = story.report("interrupted")
                raise
            _show(stage, story, report)
            write(report_file, report)
            status = _conclude(stage, report, report_file)
            if ready is not None and report.error is None:
                running.keep(stage.console, story, ready=lambda: ready(status, directory / "demo.log"))
            return status
    except FAILURES as error:  # of a demo that was left running
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        write(report_file, report)


def _conclude(stage: Stage, report: Report, report_file: Path) -> int:
    stage.console.print(f"\n{'[green]ok[/green]' if report.ok else '[red]not ok[/red]'}: report in {report_file}")
    return 0 if report.ok else 1


def _show(stage: Stage, story: Story, report: Report) -> None:
    stage.console.print()
    if story.offers:
        show.flavors(stage.console, story.offers)
        show.kubectl(stage.console, story)
    if story.progress:
        show.outcome(stage.console, story, report)
    if story.repurposed is not None:
        show.repurposed(stage.console, story.repurposed, story.halted)
    if story.lost is not None:
        show.lost(stage.console, story.lost)
    if report.error is not None:
        stage.console.print(f"\n[red]{escape(report.error)}[/red]", soft_wrap=True)


@contextlib.contextmanager
def _state() -> Iterator[Path]:
    """A folder for everything that the demo writes, gone at the end."""
    directory = Path(tempfile.mkdtemp(prefix=running.PREFIX))
    try:
        (directory / running.PID_FILE).write_text(str(os.getpid()))
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def write(file: Path, report: Report) -> None:
    """Replace the report at once, so that nobody reads half of one; what is no plain file (a pipe) is written to."""
    text = orjson.dumps(report.document(), option=orjson.OPT_INDENT_2) + b"\n"
    if file.exists() and not file.is_file():
        file.write_bytes(text)
        return
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_bytes(text)
    draft.replace(file)


if __name__ == "__main__":
    sys.exit(main())
