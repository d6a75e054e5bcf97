"""A short form of `make bench`, which shows that it works and that nothing has become very slow."""

import asyncio
import statistics
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.bench.__main__ import Bench
from tests.bench.data import seed
from tests.bench.equality import check_answers
from tests.bench.sides import SIDES, running
from tests.conftest import NewDatabase
from tests.contract.conformance import others_answer


@pytest.mark.bench
def test_taskflow_answers_as_the_others_do_and_faster_than_the_conventional_one(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_database()
    people = asyncio.run(seed(url, users=10, tasks=100))
    with others_answer(), ExitStack() as stack:
        sides = [stack.enter_context(running(name, url, tmp_path)) for name in SIDES]
        bench = Bench(sides, people, url)
        assert check_answers(sides, people[0], url, bench.settle) == []

        taskflow, peer, _ = sides
        ratios = []
        for _ in range(3):
            bench.saturate(taskflow, "read", 1)
            theirs = bench.saturate(peer, "read", 1).per_second
            ratios.append(bench.saturate(taskflow, "read", 1).per_second / theirs)
        assert statistics.median(ratios) > 1.5
