"""From slices to figures: medians, ratios, and the table that people read."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from tests.bench.calls import SHORT_NAMES
from tests.bench.load import Paced, Slice
from tests.bench.sides import SIDES

# Times the peer's rate. There is none for the list without a total, which conventional services
# do not have.
GOALS_AGAINST_PEER = {"list": 4.0, "read": 5.0, "create": 6.0, "patch": 5.0, "mix": 4.5}
GOAL_AGAINST_FLOOR = 0.5
GOAL_TAIL = 4.0

# The slices of each round by side, by call.
Rounds = Mapping[str, Mapping[str, Sequence[Slice]]]
Latencies = Mapping[str, Mapping[str, Sequence[Paced]]]
Figures = dict[str, dict[str, Any]]


def _ratio(ours: Sequence[Slice], theirs: Sequence[Slice]) -> float:
    # Within a round, where both have met the same neighbours.
    pairs = zip(ours, theirs, strict=True)
    return statistics.median(one.per_second / other.per_second for one, other in pairs)


def figures_of(rounds: Rounds, latencies: Latencies) -> Figures:
    """By call and side: medians over the rounds, latencies in milliseconds; and the ratios."""
    figures: Figures = {}
    for call, slices in rounds.items():
        figures[call] = {
            side: {
                "per_second": round(statistics.median(one.per_second for one in of_side)),
                "p50": round(statistics.median(one.p50 for one in of_side), 2),
                "p99": round(statistics.median(one.p99 for one in of_side), 2),
                "processor_ms": round(statistics.median(one.processor_ms for one in of_side), 3),
                "rounds": [round(one.per_second) for one in of_side],
            }
            for side, of_side in slices.items()
        }
        for side, paced in latencies.get(call, {}).items():
            figures[call][side]["at_half_load"] = {
                field.name: round(statistics.median(getattr(one, field.name) for one in paced), 2)
                for field in fields(Paced)
            }
        for other in ("peer", "floor"):
            if other in slices and "taskflow" in slices:
                ratio = _ratio(slices["taskflow"], slices[other])
                figures[call][f"against_{other}"] = round(ratio, 2)
    if {"create", "create-keyed"} <= rounds.keys():
        ratio = _ratio(rounds["create-keyed"]["taskflow"], rounds["create"]["taskflow"])
        figures["create-keyed"]["against_create"] = round(ratio, 2)
    return figures


def _verdict(*, met: bool) -> str:
    return "ok" if met else "MISSED"


def table(figures: Figures) -> str:
    """What `make bench` prints."""
    lines = [
        f"{'':20}{'requests per second':^27}  {'taskflow against':^35}",
        f"{'':20}{'taskflow':>9}{'peer':>9}{'floor':>9}  {'peer':>6} {'goal':<12}{'floor':>6} goal",
    ]
    for call, cells in figures.items():
        name = SHORT_NAMES[call]
        rates = "".join(
            f"{cells[side]['per_second'] if side in cells else '-':>9}" for side in SIDES
        )
        line = f"{name:20}{rates}"
        if (ratio := cells.get("against_peer")) is not None:
            goal = GOALS_AGAINST_PEER.get(call)
            told = f"≥{goal:g}x {_verdict(met=ratio >= goal)}" if goal else "-"
            line += f"  {ratio:>5.1f}x {told:<12}"
        if (ratio := cells.get("against_floor")) is not None:
            line += f"{ratio:>6.0%} ≥{GOAL_AGAINST_FLOOR:.0%} "
            line += _verdict(met=ratio >= GOAL_AGAINST_FLOOR)
        lines.append(line)
    lines += ["", f"{'Latency in ms (p50 / p99)':38}" + "".join(f"{side:>16}" for side in SIDES)]
    for call, cells in figures.items():
        name = SHORT_NAMES[call]
        for load in ("at 16 connections", "at half load"):
            line = f"{name if load.startswith('at 16') else '':20}{load:18}"
            for side in SIDES:
                cell = cells.get(side, {})
                cell = cell.get("at_half_load", {}) if load == "at half load" else cell
                told = f"{cell['p50']:.1f} / {cell['p99']:.1f}" if cell else "-"
                line += f"{told:>16}"
            half = cells.get("taskflow", {}).get("at_half_load")
            if load == "at half load" and half:
                tail = half["p99"] / half["p50"]
                line += f"   tail {tail:.1f}x, goal ≤{GOAL_TAIL:g}x "
                line += _verdict(met=tail <= GOAL_TAIL)
            lines.append(line)
    lines += ["", f"{'Processor ms per request':38}" + "".join(f"{side:>16}" for side in SIDES)]
    for call, cells in figures.items():
        told = "".join(
            f"{cells[side]['processor_ms'] if side in cells else '-':>16}" for side in SIDES
        )
        lines.append(f"{SHORT_NAMES[call]:38}{told}")
    if (share := figures.get("create-keyed", {}).get("against_create")) is not None:
        lines += ["", f"A create with a key comes to {share:.0%} of one without."]
    return "\n".join(lines)
