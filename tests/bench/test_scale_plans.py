"""What the benchmark reads out of PostgreSQL's plans."""

import pytest

from tests.bench.scale_plans import Plan

_LINES = """\
Limit  (cost=31.70..31.72 rows=10 width=283) (actual time=7.525..7.535 rows=21.00 loops=1)
  InitPlan 1
    ->  Seq Scan on credentials  (cost=0.28..2.50 rows=1) (actual time=0.0..0.0 rows=1.00 loops=1)
          Rows Removed by Filter: 9
"""
_SORT = """\
  ->  Sort  (cost=29.20..29.23 rows=10) (actual time=7.523..7.527 rows=21.00 loops=1)
        Sort Key: tasks.created_at DESC, tasks.id DESC
        ->  {scan} on tasks  (cost=12.74..29.03 rows=10) (actual time=3.7..7.3 rows={rows} loops=1)
              Rows Removed by Filter: 40
"""


@pytest.mark.parametrize(
    ("scan", "rows", "faults"),
    [
        ("Bitmap Heap Scan", "21.00", []),
        ("Index Scan Backward using ix_tasks_owner_id_created_at", "21.00", []),
        ("Bitmap Heap Scan", "397532.00", ["Sort of 397,532 rows"]),
    ],
)
def test_a_sort_of_more_than_a_page_is_a_fault(scan: str, rows: str, faults: list[str]) -> None:
    plan = Plan(_LINES + _SORT.format(scan=scan, rows=rows), 7.6)
    assert plan.faults(21) == faults
    assert plan.rows_read == int(float(rows)) + 40


def test_a_walk_through_the_table_is_a_fault() -> None:
    (fault,) = Plan(_LINES + _SORT.format(scan="Parallel Seq Scan", rows="5.00"), 7.6).faults(21)
    assert "Parallel Seq Scan on tasks" in fault
