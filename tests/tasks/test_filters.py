"""The filters of GET /api/v1/tasks, one by one, together, and against a model in Python."""

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from app.db.session import Database
from app.tasks.filters import CONDITIONS, TaskFilters
from tests.support import Account, assert_error


async def titles(account: Account, **query: Any) -> set[str]:
    """The titles of the tasks that the filters find, and no more than their total says."""
    response = await account.client.get("/api/v1/tasks", params={"per_page": 100, **query})
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert data["total"] == len(data["tasks"])
    return {task["title"] for task in data["tasks"]}


def test_every_filter_has_a_meaning() -> None:
    assert set(CONDITIONS) | {"time_zone"} == set(TaskFilters.model_fields)


async def test_tags_are_compared_exactly_and_all_of_them_must_be_there(alice: Account) -> None:
    await alice.create_task(title="both", tags=["garden", "Weekly", "a,b"])
    await alice.create_task(title="one", tags=["garden"])
    await alice.create_task(title="none")

    assert await titles(alice, tag="garden") == {"both", "one"}
    assert await titles(alice, tag=["garden", "Weekly", "garden"]) == {"both"}
    assert await titles(alice, tag=" a,b ") == {"both"}
    for absent in ("gard", "Garden", "weekly", "a", '"garden"', "garden%", "{garden}", "NULL"):
        assert await titles(alice, tag=absent) == set()


async def test_after_is_inclusive_and_before_is_exclusive(
    alice: Account, database: Database
) -> None:
    for hour in (9, 10, 11):
        instant = f"2026-05-01T{hour:02}:00:00Z"
        task = await alice.create_task(title=f"{hour}", due_at=instant)
        async with database.session() as session:
            await session.execute(
                text("UPDATE tasks SET created_at = :at, updated_at = :at WHERE id = :id"),
                {"at": datetime.fromisoformat(instant), "id": task["id"]},
            )
    await alice.create_task(title="never due")

    for name in ("due", "created", "updated"):
        since = {f"{name}_after": "2026-05-01T10:00:00Z"}
        until = {f"{name}_before": "2026-05-01T11:00:00Z"}
        assert await titles(alice, **since) - {"never due"} == {"10", "11"}
        assert await titles(alice, **until) == {"9", "10"}
        assert await titles(alice, **since, **until) == {"10"}
        # The same instant with another offset.
        assert await titles(alice, **{f"{name}_before": "2026-05-01T12:30:00+02:30"}) == {"9"}


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
async def test_due_after_is_inclusive_and_due_before_exclusive_in_every_time_zone(
    alice: Account, zone: str
) -> None:
    for hour in (9, 10, 11):
        await alice.create_task(title=f"{hour}", due_at=f"2026-05-01T{hour:02}:00:00Z")

    assert await titles(alice, due_after="2026-05-01T10:00:00Z", time_zone=zone) == {"10", "11"}
    assert await titles(alice, due_before="2026-05-01T11:00:00Z", time_zone=zone) == {"9", "10"}


async def test_a_day_ends_with_its_last_microsecond_in_the_callers_time_zone(
    alice: Account,
) -> None:
    await alice.create_task(title="day", due_on="2026-07-01")

    for zone, end in (
        ("UTC", "2026-07-01T23:59:59.999999Z"),
        ("Europe/Berlin", "2026-07-01T21:59:59.999999Z"),
        ("Pacific/Kiritimati", "2026-07-01T09:59:59.999999Z"),
        ("Pacific/Pago_Pago", "2026-07-02T10:59:59.999999Z"),
    ):
        next_moment = (datetime.fromisoformat(end) + timedelta(microseconds=1)).isoformat()
        assert await titles(alice, due_after=end, time_zone=zone) == {"day"}
        assert await titles(alice, due_before=end, time_zone=zone) == set()
        assert await titles(alice, due_after=next_moment, time_zone=zone) == set()
        assert await titles(alice, due_before=next_moment, time_zone=zone) == {"day"}


async def test_overdue_is_what_has_passed_and_is_still_to_do(alice: Account) -> None:
    today = datetime.now(UTC).date()
    past, future = "2020-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"
    for status in ("pending", "in_progress", "completed", "cancelled"):
        await alice.create_task(title=f"{status} past", status=status, due_at=past)
        await alice.create_task(title=f"{status} future", status=status, due_at=future)
        await alice.create_task(title=f"{status} never", status=status)
    for days in (-2, 0, 2):
        day = (today + timedelta(days=days)).isoformat()
        await alice.create_task(title=f"day {days}", due_on=day)

    overdue = {"pending past", "in_progress past", "day -2"}
    assert await titles(alice, overdue="true") == overdue
    everything = await titles(alice)
    assert await titles(alice, overdue="false") == everything - overdue
    assert await titles(alice, overdue="true", status="completed") == set()


async def test_a_day_is_overdue_when_it_has_ended_in_the_callers_time_zone(alice: Account) -> None:
    # Somewhere it is always another day than a little further around the world.
    now = datetime.now(UTC)
    ahead, behind = ZoneInfo("Pacific/Kiritimati"), ZoneInfo("Pacific/Pago_Pago")
    assert now.astimezone(ahead).date() > now.astimezone(behind).date()
    await alice.create_task(title="x", due_on=now.astimezone(behind).date().isoformat())

    assert await titles(alice, overdue="true", time_zone=ahead.key) == {"x"}
    assert await titles(alice, overdue="true", time_zone=behind.key) == set()


async def test_an_external_id_is_found_exactly(alice: Account, bob: Account) -> None:
    await alice.create_task(title="hers", external_id="crm/1 %")
    await bob.create_task(title="his", external_id="crm/1 %")

    assert await titles(alice, external_id="crm/1 %") == {"hers"}
    for other in ("crm/1", "CRM/1 %", "crm/1 %%", "%"):
        assert await titles(alice, external_id=other) == set()


INSTANTS = {
    "": "invalid",
    "2026-11-22": "invalid",
    "2026-11-22T09:30:00": "invalid",
    "1700000000": "invalid",
    "now": "invalid",
    "2026-02-30T00:00:00Z": "invalid",
    "0000-01-01T00:00:00Z": "invalid",
    "10000-01-01T00:00:00Z": "invalid",
    "-0044-03-15T00:00:00Z": "invalid",
    "294277-01-01T00:00:00Z": "invalid",
    "infinity": "invalid",
    "0001-01-01T00:00:00+01:00": "out_of_range",
    "9999-12-31T23:59:59-01:00": "out_of_range",
    "2026-11-22T09:30:00Z\x00": "invalid",
}
ILLEGAL: dict[str, dict[str, str]] = {
    "status": dict.fromkeys(("", "done", "PENDING", "pending,completed", "\x00"), "invalid"),
    "priority": dict.fromkeys(("", "urgent", "1", "High"), "invalid"),
    "tag": {"": "too_short", " ": "too_short", "x" * 51: "too_long", "a\x00": "invalid"},
    "q": {
        "": "invalid",
        " ": "invalid",
        "-a": "invalid",
        '-"a b" -c': "invalid",
        '"': "invalid",
        "!!! ???": "invalid",
        "…—": "invalid",
        "x" * 501: "too_long",
        "x" * 10_000: "too_long",
        "a\x00": "invalid",
    },
    **{
        f"{name}_{side}": INSTANTS
        for name in ("due", "created", "updated")
        for side in ("after", "before")
    },
    "overdue": dict.fromkeys(("", "1", "True", "yes", "null"), "wrong_type"),
    "external_id": {"": "too_short", "x" * 201: "too_long", "a\x00": "invalid"},
    "time_zone": dict.fromkeys(
        ("", "Mars/Olympus", "europe/berlin", "+02:00", "../etc/passwd", "UTC\x00"), "invalid"
    )
    | {"x" * 65: "too_long"},
}


@pytest.mark.parametrize("name", sorted(TaskFilters.model_fields))
async def test_every_illegal_value_of_every_filter_is_refused_by_its_name(
    alice: Account, name: str
) -> None:
    assert ILLEGAL[name]
    for value, code in ILLEGAL[name].items():
        response = await alice.client.get("/api/v1/tasks", params={name: value})
        assert_error(response, 400, "validation_failed", fields={f"query.{name}": code})
    if name in {"status", "priority", "tag"}:
        return
    response = await alice.client.get("/api/v1/tasks", params=[(name, "x"), (name, "x")])
    assert_error(response, 400, "validation_failed", fields={f"query.{name}": "duplicate"})


async def test_an_instant_outside_the_calendar_of_its_time_zone_is_refused(alice: Account) -> None:
    for name in ("due_after", "due_before"):
        for instant, zone in (
            ("9999-12-31T23:59:59Z", "Asia/Tokyo"),
            ("0001-01-01T00:00:00Z", "America/New_York"),
        ):
            response = await alice.client.get(
                "/api/v1/tasks", params={name: instant, "time_zone": zone}
            )
            assert_error(
                response, 400, "validation_failed", fields={f"query.{name}": "out_of_range"}
            )
    assert await titles(alice, due_before="9999-12-31T23:59:59.999999Z") == set()
    assert await titles(alice, due_after="0001-01-01T00:00:00Z") == set()


async def test_at_most_twenty_tags_are_asked_for(alice: Account) -> None:
    tags = [f"{number}" for number in range(21)]
    assert await titles(alice, tag=tags[:20]) == set()
    response = await alice.client.get("/api/v1/tasks", params={"tag": tags})
    assert_error(response, 400, "validation_failed", fields={"query.tag": "too_long"})


# ---- The model -----------------------------------------------------------------------------------

Predicate = Callable[[dict[str, Any]], bool]


def due_moment(task: dict[str, Any], zone: ZoneInfo) -> datetime | None:
    if task["due_on"]:
        return datetime.combine(date.fromisoformat(task["due_on"]), time.max, zone)
    return datetime.fromisoformat(task["due_at"]) if task["due_at"] else None


def model(query: dict[str, Any], task: dict[str, Any]) -> bool:
    """Whether the contract says that the query finds the task."""
    due = due_moment(task, ZoneInfo(query.get("time_zone", "UTC")))
    overdue = (
        due is not None
        and due < datetime.now(UTC)
        and task["status"]
        in {
            "pending",
            "in_progress",
        }
    )
    checks: dict[str, Predicate] = {
        "status": lambda t: t["status"] in query["status"],
        "priority": lambda t: t["priority"] in query["priority"],
        "tag": lambda t: set(query["tag"]) <= set(t["tags"]),
        "due_after": lambda _: (
            due is not None and due >= datetime.fromisoformat(query["due_after"])
        ),
        "due_before": lambda _: (
            due is not None and due < datetime.fromisoformat(query["due_before"])
        ),
        "overdue": lambda _: overdue == (query["overdue"] == "true"),
        "external_id": lambda t: t["external_id"] == query["external_id"],
    }
    return all(checks[name](task) for name in query if name in checks)


async def test_any_filters_together_find_what_the_model_finds(alice: Account) -> None:
    chance = random.Random(11)  # noqa: S311 - the same tasks every time
    zones = ["UTC", "America/St_Johns", "Pacific/Apia", "Asia/Kathmandu"]
    edges = [datetime(2026, 3, 28, 22, tzinfo=UTC) + timedelta(minutes=15 * n) for n in range(40)]

    def some_instant() -> str:
        return (chance.choice(edges) - timedelta(microseconds=chance.choice([0, 1]))).isoformat()

    tasks = []
    for number in range(40):
        due: dict[str, Any] = chance.choice(
            [{}, {"due_at": some_instant()}, {"due_on": f"2026-03-{chance.randrange(27, 31)}"}]
        )
        tasks.append(
            await alice.create_task(
                title=f"{number}",
                status=chance.choice(["pending", "in_progress", "completed", "cancelled"]),
                priority=chance.choice(["low", "medium", "high", "critical"]),
                tags=chance.sample(["a", "b", "A", "c d"], chance.randrange(4)),
                external_id=chance.choice([None, f"id {number}"]),
                **due,
            )
        )
    found_some = 0
    for _ in range(60):
        options: dict[str, Any] = {
            "status": chance.sample(["pending", "in_progress", "completed"], 2),
            "priority": chance.sample(["low", "medium", "high", "critical"], 3),
            "tag": chance.sample(["a", "b", "A", "c d"], 1),
            "due_after": some_instant(),
            "due_before": some_instant(),
            "overdue": chance.choice(["true", "false"]),
            "external_id": f"id {chance.randrange(40)}",
            "time_zone": chance.choice(zones),
        }
        names = chance.sample(list(options), chance.randrange(1, 5))
        query = {name: options[name] for name in names}
        expected = {task["title"] for task in tasks if model(query, task)}
        assert await titles(alice, **query) == expected, query
        found_some += bool(expected)
    assert found_some > 15


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", "UTC"])
async def test_a_list_by_due_dates_has_the_same_tasks_as_any_other(
    alice: Account, zone: str
) -> None:
    for day in (30, 31):
        await alice.create_task(title=f"on {day}", due_on=f"2026-05-{day}")
        await alice.create_task(title=f"at {day}", due_at=f"2026-05-{day}T12:00:00Z")
    await alice.create_task(title="never")
    for local in ("2026-05-31T00:00:00", "2026-05-31T23:59:59.999999", "2026-06-01T00:00:00"):
        instant = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone)).isoformat()
        for name in ("due_after", "due_before"):
            asked = {name: instant, "time_zone": zone}
            expected = await titles(alice, **asked)
            assert await titles(alice, **asked, sort="due") == expected
            assert await titles(alice, **asked, sort="-due") == expected


async def test_the_ends_of_the_calendar_can_bound_a_list_by_due_dates(alice: Account) -> None:
    await alice.create_task(title="task", due_on="2026-05-30")
    for sort in ("due", "-due"):
        found = await titles(
            alice, due_after="0001-01-01T00:00:00Z", due_before="9999-12-31T00:00:00Z", sort=sort
        )
        assert found == {"task"}


async def test_a_plus_that_was_not_encoded_is_told(alice: Account) -> None:
    response = await alice.client.get("/api/v1/tasks?due_after=2026-01-01T00:00:00+01:00")

    assert_error(response, 400, "validation_failed", fields={"query.due_after": "invalid"})
    assert response.json()["errors"][0]["message"].endswith("; in a query a + is written %2B")
