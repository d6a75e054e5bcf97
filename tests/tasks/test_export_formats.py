"""What is in the files of an export; calendars are opened by another library than wrote them."""

import csv
import io
import re
from datetime import UTC, date, datetime
from typing import Any

import pytest
from ical.calendar_stream import IcsCalendarStream
from ical.todo import Todo

from tests.support import Account


async def calendar(account: Account) -> bytes:
    response = await account.client.get("/api/v1/tasks/export?format=ics")
    assert response.status_code == 200
    return response.content


async def opened(account: Account) -> list[Todo]:
    return IcsCalendarStream.calendar_from_ics((await calendar(account)).decode()).todos


def seconds(instant: str) -> datetime:
    return datetime.fromisoformat(instant).replace(microsecond=0)


async def test_a_task_is_a_to_do(alice: Account) -> None:
    task = await alice.create_task(
        title="Water, and prune; the \\ferns",
        description="One\nTwo\r\nThree",
        status="completed",
        priority="critical",
        tags=["garden", "a b", "é🌱"],
        due_at="2026-12-01T09:30:00.987654+05:30",
    )
    (todo,) = await opened(alice)

    assert todo.summary == "Water, and prune; the \\ferns"
    assert todo.description == "One\nTwo\nThree"
    assert todo.status == "COMPLETED"
    assert todo.priority == 1
    assert todo.categories == ["garden", "a b", "é🌱"]
    assert todo.due == datetime(2026, 12, 1, 4, 0, 0, tzinfo=UTC)
    assert todo.completed == seconds(task["completed_at"])
    assert todo.created == seconds(task["created_at"])
    assert todo.last_modified == todo.dtstamp == seconds(task["updated_at"])


async def test_commas_within_a_tag_are_escaped(alice: Account) -> None:
    # The library that reads here takes them for separators.
    await alice.create_task(tags=["a,b;c", "d\\e"])

    assert b"\r\nCATEGORIES:a\\,b\\;c,d\\\\e\r\n" in await calendar(alice)


async def test_states_priorities_and_whole_days_have_their_names_in_rfc_5545(
    alice: Account,
) -> None:
    states = {
        "pending": "NEEDS-ACTION",
        "in_progress": "IN-PROCESS",
        "completed": "COMPLETED",
        "cancelled": "CANCELLED",
    }
    priorities = {"low": 9, "medium": 5, "high": 3, "critical": 1}
    for status, priority in zip(states, priorities, strict=True):
        await alice.create_task(status=status, priority=priority, due_on="2026-12-01")
    todos = await opened(alice)

    assert [todo.status for todo in todos] == list(states.values())
    assert [todo.priority for todo in todos] == list(priorities.values())
    assert [todo.due for todo in todos] == [date(2026, 12, 1)] * 4
    assert b"\r\nDUE;VALUE=DATE:20261201\r\n" in await calendar(alice)
    assert [todo.completed is not None for todo in todos] == [False, False, True, False]


async def test_an_identity_stays_and_is_no_others(alice: Account, bob: Account) -> None:
    task = await alice.create_task()
    await alice.create_task()
    await bob.create_task()
    first = [todo.uid for todo in await opened(alice)]
    await alice.client.patch(f"/api/v1/tasks/{task['id']}", json={"title": "New"})
    uids = [todo.uid for todo in await opened(alice)]

    assert uids == first
    assert len({*uids, *(todo.uid for todo in await opened(bob))}) == 3


TEXTS = [
    "x\r\nEND:VTODO\r\nBEGIN:VEVENT",
    "x\rEND:VCALENDAR\r",
    "x\x85END:VTODO\u2028END:VTODO\u2029",
    "\x01\x0b\x0c\x1c\x1f\x7f",
    'a:b;c,d\\n"e"',
    "é" * 190,
    "🌱👩\u200d👩\u200d👧" * 30,
    "مهمة\u202eשלם",
]


@pytest.mark.parametrize("number", range(len(TEXTS)))
async def test_no_text_breaks_out_of_its_property(alice: Account, number: int) -> None:
    text = TEXTS[number]
    await alice.create_task(title=f"x{text}x", description=text, tags=[f"x{text[:40]}x"])
    await alice.create_task(title="Next")
    content = await calendar(alice)
    written = re.sub("\r\n|[\r\x85\u2028\u2029]", "\n", text)
    written = re.sub("[\x00-\x08\x0b-\x1f\x7f]", "\ufffd", written)
    todos = IcsCalendarStream.calendar_from_ics(content.decode()).todos

    assert [todo.summary for todo in todos] == [f"x{written}x", "Next"]
    assert todos[0].description == written
    lines = content.split(b"\r\n")
    assert [line for line in lines if line.startswith((b"BEGIN:", b"END:"))] == [
        b"BEGIN:VCALENDAR",
        *[b"BEGIN:VTODO", b"END:VTODO"] * 2,
        b"END:VCALENDAR",
    ]
    # RFC 5545, section 3.1: folded at 75 octets, and no control characters but tabs.
    assert max(map(len, lines)) <= 75
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n", content)


async def test_the_cells_of_a_csv_are_those_of_rfc_4180(alice: Account) -> None:
    tasks = [
        await alice.create_task(title="=1", description='a,"b"\r\nc', tags=["a", "b,c"]),
        await alice.create_task(due_on="2026-12-01", metadata={"a": 'x"y', "é": [1.5]}),
    ]
    content = (await alice.client.get("/api/v1/tasks/export?format=csv")).content
    rows: list[dict[str, Any]] = list(
        csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    )

    assert [list(row) for row in rows] == [list(task) for task in tasks]
    assert [row["title"] for row in rows] == ["'=1", "Water"]
    assert rows[0]["description"] == 'a,"b"\r\nc'
    assert b'"a,""b""\r\nc"' in content
    assert (rows[0]["tags"], rows[0]["metadata"]) == ('["a","b,c"]', "{}")
    assert (rows[1]["due_on"], rows[1]["due_at"]) == ("2026-12-01", "")
    assert rows[1]["metadata"] == '{"a":"x\\"y","é":[1.5]}'
    assert rows[1]["created_at"] == tasks[1]["created_at"]
