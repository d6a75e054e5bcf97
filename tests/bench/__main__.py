"""How fast taskflow is, beside a conventional service and beside the floor: `make bench`."""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from app.db.programs import EmbeddedDatabaseError
from tests.bench import machine, memory, scale
from tests.bench.calls import CALLS, OURS, SHORT_NAMES, WRITING, requests_of
from tests.bench.chart import chart
from tests.bench.data import Person, seed, settle
from tests.bench.database import benchmark_database
from tests.bench.equality import Unequal, check_answers
from tests.bench.load import LoadFailed, Paced, Pacer, Slice, saturate
from tests.bench.report import figures_of, table
from tests.bench.scale_calls import Refused
from tests.bench.sides import SIDES, Side, SideFailed, running
from tests.sdk.tools import ROOT, ToolFailed

RESULTS = Path(__file__).parent / "results"
# Of a part of the calls, or of few rounds: nothing to be quoted.
QUICK_RESULTS = ROOT / "build" / "bench"
ROUNDS = 5
# More than a side answers in a second: no patch comes twice within a slice.
REQUESTS_PER_SECOND = 8_000
WARM_UP_SECONDS = 2
PACED_SECONDS = 4
# An uneven number, so that the median is one that was measured.
PACED_ROUNDS = 3
FAILURES = (Unequal, LoadFailed, Refused, SideFailed, ToolFailed, EmbeddedDatabaseError)


def say(words: str) -> None:
    print(words, flush=True)  # noqa: T201 - this is a program


class Bench:
    """Services that run on one database, and how they are loaded."""

    def __init__(self, sides: Sequence[Side], people: Sequence[Person], database_url: str) -> None:
        self.sides = sides
        self._people = people
        self._url = database_url
        self._slices = 0

    def sides_of(self, call: str) -> list[Side]:
        """Those that have it."""
        return [side for side in self.sides if side.name == "taskflow" or call not in OURS]

    def settle(self) -> None:
        asyncio.run(settle(self._url, self._people))

    def _requests(self, side: Side, call: str, seconds: int) -> list[bytes]:
        self._slices += 1
        number = seconds * REQUESTS_PER_SECOND
        return requests_of(call, self._people, side.host, number=number, seed=self._slices)

    def saturate(self, side: Side, call: str, seconds: int) -> Slice:
        """One slice of full load. Raises `LoadFailed`."""
        try:
            requests = self._requests(side, call, seconds)
            return saturate(side.base_url, side.pid, requests, seconds)
        except LoadFailed as failure:
            raise LoadFailed(f"{side.name}, {CALLS[call]}: {failure}") from None
        finally:
            if call in WRITING:
                self.settle()

    def pace(self, side: Side, call: str, rate: float) -> Paced:
        """One slice at a given rate, in requests a second. Raises `LoadFailed`."""
        requests = self._requests(side, call, PACED_SECONDS)
        try:
            return Pacer(side.port, requests).run(rate, PACED_SECONDS)
        except LoadFailed as failure:
            raise LoadFailed(f"{side.name}, {CALLS[call]}: {failure}") from None
        finally:
            if call in WRITING:
                self.settle()

    def compare(self, calls: Sequence[str], rounds: int, seconds: int) -> dict[str, Any]:
        """Time the calls on all sides in turns, and then their latencies at half of the load."""
        slices: dict[str, dict[str, list[Slice]]] = {
            call: {side.name: [] for side in self.sides_of(call)} for call in calls
        }
        for call in calls:
            for side in self.sides_of(call):
                self.saturate(side, call, WARM_UP_SECONDS)
        for number in range(rounds):
            say(f"Round {number + 1} of {rounds}")
            for call in calls:
                sides = self.sides_of(call)
                # Each side goes first as often as the others.
                first = number % len(sides)
                for side in [*sides[first:], *sides[:first]]:
                    slices[call][side.name].append(self.saturate(side, call, seconds))
        say("Latencies at half of the load")
        figures = figures_of(slices, {})
        latencies: dict[str, dict[str, list[Paced]]] = {
            call: {side.name: [] for side in self.sides_of(call)} for call in calls
        }
        for _ in range(PACED_ROUNDS):
            for call in calls:
                for side in self.sides_of(call):
                    rate = figures[call][side.name]["per_second"] / 2
                    latencies[call][side.name].append(self.pace(side, call, rate))
        return figures_of(slices, latencies)


def run(options: argparse.Namespace) -> None:
    load = machine.load_average()
    if machine.is_busy(load):
        say(f"WARNING: this machine is busy (load average {load:.1f}): these figures mean little.")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskflow-bench-")))
        url = stack.enter_context(benchmark_database())
        if options.scale:
            measure_scale(url, folder, options)
            return
        say(f"Making {options.users} users with {options.tasks} tasks each")
        people = asyncio.run(seed(url, users=options.users, tasks=options.tasks))
        if options.memory:
            measure_memory(
                stack.enter_context(running("taskflow", url, folder)), people, url, options
            )
            return
        sides = [stack.enter_context(running(name, url, folder)) for name in SIDES]
        bench = Bench(sides, people, url)
        drifted = check_answers(sides, people[0], url, bench.settle)
        say("All sides give the same answers.")
        if drifted:
            say(f"WARNING: the floor's SQL is not taskflow's any more: {', '.join(drifted)}")
        figures = bench.compare(options.calls, options.rounds, options.seconds)
        about = machine.describe(url, load) | {"sql_of_the_floor_differs": drifted}
    say("\n" + table(figures))
    is_whole = set(options.calls) == set(CALLS) and options.rounds >= ROUNDS
    write(RESULTS if is_whole else QUICK_RESULTS, figures, about)


def measure_memory(
    side: Side, people: Sequence[Person], url: str, options: argparse.Namespace
) -> None:
    """Watch the workers of taskflow through many requests, with the other sides down."""
    bench = Bench([side], people, url)
    found = memory.measure(
        side,
        lambda seconds: bench.saturate(side, "mix", seconds).per_second,
        say,
        options.requests,
    )
    found["import_seconds"] = round(memory.import_seconds(url), 2)
    say("\n" + memory.table(found))
    folder = RESULTS if options.requests >= memory.REQUESTS else QUICK_RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    about = machine.describe(url, machine.load_average())
    text = json.dumps({"machine": about, "memory": found}, indent=2)
    (folder / "memory.json").write_text(text + "\n")


def measure_scale(url: str, folder: Path, options: argparse.Namespace) -> None:
    """Ask taskflow alone, with millions of tasks in the database."""
    results = RESULTS if options.rows >= scale.ROWS else QUICK_RESULTS
    results.mkdir(parents=True, exist_ok=True)
    load = machine.load_average()
    found = scale.measure(url, folder, options.rows, results / "plans.txt", say)
    text = json.dumps({"machine": machine.describe(url, load), "scale": found}, indent=2)
    (results / "scale.json").write_text(text + "\n")
    say(f"\nWritten: {results.relative_to(ROOT)}/scale.json and plans.txt")


def write(folder: Path, figures: dict[str, Any], about: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": about, "calls": figures}, indent=2)
    (folder / "bench.json").write_text(text + "\n")
    title = f"Requests per second on {about['cores']} cores, database and client included"
    (folder / "chart.svg").write_text(chart(title, figures, SHORT_NAMES))
    say(f"\nWritten: {folder.relative_to(ROOT)}/bench.json and chart.svg")


def _calls(text: str) -> list[str]:
    calls = text.split(",")
    if unknown := set(calls) - set(CALLS):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {list(CALLS)}")
    return calls


def _rows(text: str) -> int:
    # Half of them or fewer are the large owner's, of which the 10,000th page and others need some.
    if (rows := int(text)) < scale.LEAST_ROWS:
        raise argparse.ArgumentTypeError(f"at least {scale.LEAST_ROWS:,}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=3, help="of each slice")
    parser.add_argument("--calls", type=_calls, default=list(CALLS), help=",".join(CALLS))
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--tasks", type=int, default=1_000, help="of each user")
    parser.add_argument("--memory", action="store_true", help="watch taskflow's memory instead")
    parser.add_argument("--requests", type=int, default=memory.REQUESTS, help="with --memory")
    parser.add_argument("--scale", action="store_true", help="measure with millions of tasks")
    parser.add_argument("--rows", type=_rows, default=scale.ROWS, help="tasks, with --scale")
    options = parser.parse_args()
    if not options.scale and shutil.which("wrk") is None:
        sys.exit("make bench needs wrk. On Debian or Ubuntu: apt-get install wrk")
    # What was started is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run(options)
    except FAILURES as error:
        sys.exit(f"make bench failed: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
