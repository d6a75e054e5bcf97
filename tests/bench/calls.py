"""The calls that are timed, as the bytes of requests: the same for every side and every tool."""

import json
import random
from collections.abc import Sequence
from typing import Any

from tests.bench.data import Person

_MIX = {"read": 50, "list": 25, "patch": 15, "create": 10}
CALLS = {
    "list": "a list of 20, with the total",
    "list-uncounted": "a list of 20, with count=false",
    "read": "reading one",
    "create": "creating one",
    "create-keyed": "creating one with an Idempotency-Key",
    "patch": "patching one",
    "mix": ", ".join(f"{weight} % {name}" for name, weight in _MIX.items()),
}
SHORT_NAMES = {
    "list": "list of 20",
    "list-uncounted": "list, count=false",
    "read": "read one",
    "create": "create",
    "create-keyed": "create with a key",
    "patch": "patch",
    "mix": "mix",
}
WRITING = frozenset({"create", "create-keyed", "patch", "mix"})
# What the other sides do not have.
OURS = frozenset({"create-keyed"})
_STATUSES = ("pending", "in_progress", "completed", "cancelled")
_PATH = "/api/v1/tasks"


def new_task(number: int) -> dict[str, Any]:
    """What a client sends to create a task."""
    return {
        "title": f"Ask the supplier about delivery no. {number}",
        "description": "Agreed on the phone with Ana, who sends the figures by Thursday.",
        "priority": ("low", "medium", "high")[number % 3],
        "tags": ["work", "waiting"],
        "due_at": "2030-03-01T09:30:00Z",
        "metadata": {"project": f"P-{number % 900}", "estimate": number % 16},
    }


def changes(number: int) -> dict[str, Any]:
    """A patch that changes something as long as no number comes twice."""
    return {"status": _STATUSES[number % 4], "metadata": {"revision": number}}


def render(
    host: str, token: str, method: str, path: str, body: Any = None, *, key: str | None = None
) -> bytes:
    """A request as bytes, with a JSON body and an `Idempotency-Key` unless those are None."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        "Accept: application/json\r\n"
    )
    if key is not None:
        head += f"Idempotency-Key: {key}\r\n"
    content = b""
    if body is not None:
        content = json.dumps(body).encode()
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return f"{head}\r\n".encode() + content


def requests_of(
    call: str, people: Sequence[Person], host: str, *, number: int, seed: int
) -> list[bytes]:
    """`number` requests of a call by random people on their tasks.

    Patches and keys differ by `seed`.
    """
    chance = random.Random(seed)
    requests = []
    for index in range(number):
        person = chance.choice(people)
        task = f"{_PATH}/{chance.choice(person.task_ids)}"
        kind = chance.choices(list(_MIX), list(_MIX.values()))[0] if call == "mix" else call
        unique = seed * 1_000_000 + index
        method, path, body = {
            "list": ("GET", _PATH, None),
            "list-uncounted": ("GET", f"{_PATH}?count=false", None),
            "read": ("GET", task, None),
            "create": ("POST", _PATH, new_task(unique)),
            "create-keyed": ("POST", _PATH, new_task(unique)),
            "patch": ("PATCH", task, changes(unique)),
        }[kind]
        key = f"order-{unique}" if kind == "create-keyed" else None
        requests.append(render(host, person.token, method, path, body, key=key))
    return requests
