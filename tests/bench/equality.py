"""Before anything is timed: all sides give the same answers, and the floor sends the same SQL."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tests.bench.calls import changes, new_task
from tests.bench.data import Person, last_statement
from tests.bench.sides import Side

PATH = "/api/v1/tasks"
# What clients rely on; Cache-Control and the like differ where taskflow promises more.
HEADERS = ("Content-Type", "ETag", "Location", "Link")
MOMENTS = frozenset({"created_at", "updated_at", "completed_at"})


class Unequal(Exception):
    """A side answers otherwise than taskflow; says to what, and where."""


@dataclass(frozen=True)
class Answer:
    """What is compared of an answer."""

    status: int
    headers: Mapping[str, str]
    body: Any


def differences(expected: Any, found: Any, path: str = "answer") -> Iterator[str]:
    """Where two JSON values differ, in words."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in sorted(expected.keys() ^ found.keys()):
            yield f"{path}.{name} is {'missing' if name in expected else 'too much'}"
        for name in expected.keys() & found.keys():
            yield from differences(expected[name], found[name], f"{path}.{name}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, pair in enumerate(zip(expected, found, strict=True)):
            yield from differences(*pair, f"{path}[{index}]")
    # In Python True equals 1.
    elif type(expected) is not type(found) or expected != found:
        yield f"{path} is {found!r}, not {expected!r}"


def comparable(answer: httpx.Response, *, own_task: bool = False) -> Answer:
    """An answer without what must differ: cursors, and the id and moments of one's `own_task`."""
    body = answer.json()
    headers = {name: answer.headers[name] for name in HEADERS if name in answer.headers}
    data = body.get("data") or {}
    if data.get("next_cursor"):
        # Each side signs its cursors in its own way.
        data["next_cursor"] = "a cursor"
    if own_task:
        for name in ("ETag", "Location"):
            if name in headers:
                headers[name] = headers[name].replace(str(data["id"]), "<id>")
        data["id"] = "<id>"
        data |= {name: "a moment" for name in MOMENTS if data.get(name) is not None}
    return Answer(answer.status_code, headers, body)


def _answers(side: Side, person: Person, database_url: str) -> tuple[dict[str, Answer], list[str]]:
    """A side's answers, and the statements that it sent for them, by the calls' names."""
    answers: dict[str, Answer] = {}
    statements: list[str] = []
    authorization = {"Authorization": f"Bearer {person.token}"}

    def keep(name: str, response: httpx.Response, *, own_task: bool = False) -> None:
        statements.append(asyncio.run(last_statement(database_url, side.name)))
        answers[name] = comparable(response, own_task=own_task)

    with httpx.Client(base_url=side.base_url, headers=authorization) as client:
        # Whatever a side does at a first meeting is over with this.
        client.get(PATH)
        keep("list", client.get(PATH))
        keep("list-uncounted", client.get(PATH, params={"count": "false"}))
        keep("read", client.get(f"{PATH}/{person.task_ids[0]}"))
        created = client.post(PATH, json=new_task(1))
        keep("create", created, own_task=True)
        own = f"{PATH}/{created.json()['data']['id']}"
        keep("patch", client.patch(own, json=changes(2)), own_task=True)
        keep("patch back", client.patch(own, json=changes(3)), own_task=True)
        keep("read of one's own", client.get(own), own_task=True)
    return answers, statements


def check_answers(
    sides: Sequence[Side], person: Person, database_url: str, settle: Callable[[], None]
) -> list[str]:
    """Compare every side with the first; `settle` takes away what a side created.

    Raises `Unequal`. Returns the names of the calls for which the floor's SQL is not taskflow's.
    """
    known, statements = _answers(sides[0], person, database_url)
    drifted: list[str] = []
    for side in sides[1:]:
        settle()
        answers, sent = _answers(side, person, database_url)
        for name, answer in answers.items():
            for told in differences(vars(known[name]), vars(answer)):
                raise Unequal(f"{side.name} answers otherwise to {name}: {told}")
        if side.name == "floor":
            drifted = [
                name
                for name, ours, theirs in zip(known, statements, sent, strict=True)
                # A server may keep no more than the start of a long one.
                if not ours.startswith(theirs) and not theirs.startswith(ours)
            ]
    settle()
    return drifted
