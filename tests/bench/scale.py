"""How lists, searches and writes fare with millions of tasks: `make bench BENCH_ARGS=--scale`."""

import asyncio
import time
from pathlib import Path
from typing import Any

from tests.bench.scale_calls import Measurement, Say
from tests.bench.scale_data import seed_at_scale
from tests.bench.scale_writes import index_costs
from tests.bench.sides import running

ROWS = 2_000_000
LEAST_ROWS = 20_000
GOAL_LARGE = 1.3
GOAL_DEEP = 1.2
SEARCH_MS = 50
GOAL_TOTAL = 5.0
GOAL_BATCH = 10_000


def measure(url: str, folder: Path, rows: int, plans: Path, say: Say) -> dict[str, Any]:
    """Fill the database with `rows` tasks and measure everything; the plans go into a file."""
    say(f"Making {rows:,} tasks")
    begun = time.perf_counter()
    owners = asyncio.run(seed_at_scale(url, rows, say))
    found: dict[str, Any] = {
        "rows": rows,
        "of_the_large_owner": owners.tasks_of_large,
        "of_the_small_owner": owners.tasks_of_small,
        "seconds_to_fill": round(time.perf_counter() - begun),
    }
    with running("taskflow", url, folder, WORKERS="1") as side:
        measurement = Measurement(url, side, owners, say)
        found["first_pages"] = measurement.first_pages()
        found["deep_pages"] = measurement.deep_pages()
        found["searches"] = measurement.searches()
        found["total"] = measurement.total()
        found["plans"] = measurement.plans(plans)
        found["batches"] = measurement.batches()
    found["index_costs"] = index_costs(url, owners.large, say)
    say("\n" + verdicts(found))
    return found


def verdicts(found: dict[str, Any]) -> str:
    """Each goal with the figures that miss it."""
    lines = []
    for name, cells, goal in (
        ("First page, large / small owner", found["first_pages"], GOAL_LARGE),
        ("Deep page / first page", found["deep_pages"], GOAL_DEEP),
    ):
        missed = {key: cell["ratio"] for key, cell in cells.items() if cell["ratio"] > goal}
        told = ", ".join(f"{key} {ratio}x" for key, ratio in missed.items())
        lines.append((name, f"≤{goal}x", "ok" if not missed else f"MISSED: {told}"))
    searches = {name: one["p95_ms"] for name, one in found["searches"].items()}
    rate, ratio = found["batches"]["per_second"], found["total"]["ratio"]
    lines += [
        (
            "Search of two words, p95 in ms",
            f"<{SEARCH_MS}",
            "; ".join(
                f"{name} {_verdict(p95, met=p95 < SEARCH_MS)}" for name, p95 in searches.items()
            ),
        ),
        ("Page with total / count(*)", f"≤{GOAL_TOTAL}x", _verdict(ratio, met=ratio <= GOAL_TOTAL)),
        ("Batches, tasks a second", f"≥{GOAL_BATCH:,}", _verdict(rate, met=rate >= GOAL_BATCH)),
    ]
    return "\n".join(f"{name:34}{goal:>9}  {told}" for name, goal, told in lines)


def _verdict(figure: float, *, met: bool) -> str:
    return f"{'ok' if met else 'MISSED'}: {figure:,}"
