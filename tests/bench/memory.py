"""How much memory a worker takes, idle and after much work, and how long it takes to start."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.data import SECRET_KEY
from tests.bench.processes import resident_megabytes
from tests.bench.sides import Side
from tests.sdk.tools import ROOT

GOAL_IDLE_MB = 110
GOAL_GROWTH_MB = 5
GOAL_IMPORT_SECONDS = 1.0
REQUESTS = 200_000
# What is filled once (prepared statements, whom tokens belong to) is no growth.
WARM_UP_REQUESTS = 5_000
_SLICE_SECONDS = 10


def import_seconds(database_url: str) -> float:
    """How long `import app.main` takes with its byte code at hand: the fastest of three."""
    command = [sys.executable, "-X", "importtime", "-c", "import app.main"]
    environment = os.environ | {
        "ENVIRONMENT": "production",
        "DATABASE_URL": database_url,
        "SECRET_KEY": SECRET_KEY,
    }
    times = []
    for _ in range(3):
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        found = re.findall(r"\| +(\d+) \| app\.main$", done.stderr, re.MULTILINE)
        times.append(int(found[-1]) / 1e6)
    return min(times)


def _workers(side: Side) -> dict[int, float]:
    """The memory of the processes that have served, in megabytes by process id."""
    return {
        pid: used
        for pid, used in resident_megabytes(side.pid).items()
        if pid != side.pid and "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    }


def _idle_workers(side: Side) -> dict[int, float]:
    """The same once it does not change: one worker answers while the other still starts."""
    pause = threading.Event()
    before: dict[int, float] = {}
    while not (now := _workers(side)) or now != before:
        before = now
        pause.wait(1)
    return now


def measure(
    side: Side, mix: Callable[[int], float], say: Callable[[str], None], requests: int = REQUESTS
) -> dict[str, Any]:
    """Load `side` with a mix of so many requests and watch its workers.

    `mix` loads it for so many seconds and returns how many requests a second it has answered.
    """
    idle = _idle_workers(side)
    served = 0.0
    while served < WARM_UP_REQUESTS:
        served += mix(_SLICE_SECONDS) * _SLICE_SECONDS
    warm = _workers(side)
    served = 0.0
    while served < requests:
        served += mix(_SLICE_SECONDS) * _SLICE_SECONDS
        say(f"{served:9,.0f} requests: {max(_workers(side).values()):.1f} MB")
    end = _workers(side)
    return {
        "idle_mb": [round(used, 1) for used in idle.values()],
        "warm_mb": [round(used, 1) for used in warm.values()],
        "after_mb": [round(used, 1) for used in end.values()],
        "growth_mb": round(max(end[pid] - warm[pid] for pid in end), 1),
        "requests": round(served),
    }


def table(memory: dict[str, Any]) -> str:
    """What `make bench BENCH_ARGS=--memory` prints."""
    rows = [
        ("A worker, idle (MB)", max(memory["idle_mb"]), GOAL_IDLE_MB),
        (f"Growth over {memory['requests']:,} requests (MB)", memory["growth_mb"], GOAL_GROWTH_MB),
        ("Import of app.main (s)", memory["import_seconds"], GOAL_IMPORT_SECONDS),
    ]
    return "\n".join(
        f"{name:44}{value:>8.1f}   goal ≤{goal:g} {'ok' if value <= goal else 'MISSED'}"
        for name, value, goal in rows
    )
