"""GET /api/v1/tasks/stats."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.support import Account, assert_error

NOTHING: dict[str, Any] = {
    "total": 0,
    "overdue": 0,
    "by_status": {"pending": 0, "in_progress": 0, "completed": 0, "cancelled": 0},
    "by_priority": {"low": 0, "medium": 0, "high": 0, "critical": 0},
}


async def stats_of(account: Account, **query: Any) -> dict[str, Any]:
    response = await account.client.get("/api/v1/tasks/stats", params=query)
    assert response.status_code == 200, response.text
    data: dict[str, Any] = response.json()["data"]
    return data


async def test_an_empty_account_counts_zeros(alice: Account) -> None:
    assert await stats_of(alice) == NOTHING


async def test_tasks_are_counted_under_the_filters_of_the_list(
    alice: Account, bob: Account
) -> None:
    past = "2020-01-01T00:00:00Z"
    await alice.create_task(title="a", status="pending", priority="high", due_at=past)
    await alice.create_task(title="b", status="in_progress", due_on="2020-01-01", tags=["x"])
    await alice.create_task(title="c", status="completed", due_at=past, tags=["x"])
    await alice.create_task(title="d", due_on="9999-12-31")
    gone = await alice.create_task(title="e", due_at=past)
    await alice.client.delete(f"/api/v1/tasks/{gone['id']}")
    await bob.create_task()

    assert await stats_of(alice) == {
        "total": 4,
        "overdue": 2,
        "by_status": {"pending": 2, "in_progress": 1, "completed": 1, "cancelled": 0},
        "by_priority": {"low": 0, "medium": 3, "high": 1, "critical": 0},
    }
    assert await stats_of(alice, tag="x", status=["in_progress", "completed"]) == {
        "total": 2,
        "overdue": 1,
        "by_status": NOTHING["by_status"] | {"in_progress": 1, "completed": 1},
        "by_priority": NOTHING["by_priority"] | {"medium": 2},
    }
    assert (await stats_of(alice, overdue="true"))["total"] == 2
    assert (await stats_of(alice, overdue="false"))["overdue"] == 0
    assert (await stats_of(alice, q="b"))["total"] == 1
    assert await stats_of(alice, q="nothing") == NOTHING


async def test_a_day_counts_as_overdue_when_it_has_ended_in_the_callers_time_zone(
    alice: Account,
) -> None:
    # Somewhere it is always another day than a little further around the world.
    ahead, behind = "Pacific/Kiritimati", "Pacific/Pago_Pago"
    await alice.create_task(
        due_on=datetime.now(UTC).astimezone(ZoneInfo(behind)).date().isoformat()
    )

    assert (await stats_of(alice, time_zone=ahead))["overdue"] == 1
    assert (await stats_of(alice, time_zone=behind))["overdue"] == 0


@pytest.mark.parametrize("name", ["page", "per_page", "sort", "count", "cursor", "state"])
async def test_what_is_no_filter_is_refused_by_its_name(alice: Account, name: str) -> None:
    response = await alice.client.get("/api/v1/tasks/stats", params={name: "1"})
    assert_error(response, 400, "validation_failed", fields={f"query.{name}": "unknown"})
