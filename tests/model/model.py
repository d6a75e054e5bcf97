"""The contract's tasks in plain Python: what one owner has, and what the lists must show."""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

MICROSECOND = timedelta(microseconds=1)
PRIORITIES = ["low", "medium", "high", "critical"]
STATUSES = ["pending", "in_progress", "completed", "cancelled"]
DEFAULTS: dict[str, Any] = {
    "description": "",
    "status": "pending",
    "priority": "medium",
    "tags": [],
    "due_at": None,
    "due_on": None,
    "metadata": {},
    "external_id": None,
}

Task = dict[str, Any]


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def due(task: Task, zone: str) -> datetime | None:
    """When a task is due: an all-day one at the last microsecond of its day in the zone."""
    if task["due_at"]:
        return instant(task["due_at"])
    if task["due_on"]:
        following = date.fromisoformat(task["due_on"]) + timedelta(days=1)
        midnight = datetime.combine(following, time(), ZoneInfo(zone))
        return midnight.astimezone(UTC) - MICROSECOND
    return None


def is_overdue(task: Task, zone: str) -> bool:
    moment = due(task, zone)
    passed = moment is not None and moment < datetime.now(UTC)
    return passed and task["status"] in {"pending", "in_progress"}


def words(text: str) -> list[str]:
    """Words without regard to case and accents."""
    decomposed = unicodedata.normalize("NFKD", text)
    bare = "".join(it for it in decomposed if not unicodedata.combining(it)).lower()
    return "".join(it if it.isalnum() else " " for it in bare).split()


def is_found(task: Task, q: str) -> bool:
    """Every word is there, the last one also as the beginning of one; none after a minus is."""
    there = words(" ".join([task["title"], task["description"], *task["tags"]]))
    wanted = [term for term in q.split() if not term.startswith("-")]
    unwanted = [word for term in q.split() if term.startswith("-") for word in words(term)]
    *whole, last = [word for term in wanted for word in words(term)]
    return (
        all(word in there for word in whole)
        and any(word.startswith(last) for word in there)
        and not any(word in there for word in unwanted)
    )


def passes(task: Task, filters: Mapping[str, Any]) -> bool:
    zone = filters.get("time_zone", "UTC")
    moment = due(task, zone)
    checks: dict[str, Callable[[Any], bool]] = {
        "status": lambda wanted: task["status"] in wanted,
        "priority": lambda wanted: task["priority"] in wanted,
        "tag": lambda wanted: set(wanted) <= set(task["tags"]),
        "q": lambda wanted: is_found(task, wanted),
        "due_after": lambda bound: moment is not None and moment >= instant(bound),
        "due_before": lambda bound: moment is not None and moment < instant(bound),
        "overdue": lambda wanted: is_overdue(task, zone) == (wanted == "true"),
        "created_after": lambda bound: instant(task["created_at"]) >= instant(bound),
        "created_before": lambda bound: instant(task["created_at"]) < instant(bound),
        "updated_after": lambda bound: instant(task["updated_at"]) >= instant(bound),
        "updated_before": lambda bound: instant(task["updated_at"]) < instant(bound),
        "external_id": lambda wanted: task["external_id"] == wanted,
        "time_zone": lambda _: True,
    }
    return all(checks[name](value) for name, value in filters.items())


def in_order(tasks: list[Task], sort: str) -> list[Task]:
    """Sorted; the id breaks ties in the same direction, and what is not due comes last."""
    name = sort.removeprefix("-")
    keys: dict[str, Callable[[Task], Any]] = {
        "created_at": lambda task: instant(task["created_at"]),
        "updated_at": lambda task: instant(task["updated_at"]),
        "due": lambda task: due(task, "UTC"),
        "priority": lambda task: PRIORITIES.index(task["priority"]),
        "title": lambda task: task["title"].lower(),
    }
    key = keys[name]
    descending = sort.startswith("-")
    with_key = [task for task in tasks if key(task) is not None]
    without = [task for task in tasks if key(task) is None]
    return [
        *sorted(with_key, key=lambda task: (key(task), task["id"]), reverse=descending),
        *sorted(without, key=lambda task: task["id"], reverse=descending),
    ]


@dataclass
class Tasks:
    """What one owner has: live tasks and the trash, by id, as the service last showed them."""

    live: dict[int, Task] = field(default_factory=dict)
    trash: dict[int, Task] = field(default_factory=dict)

    def holder_of(self, external_id: str | None) -> Task | None:
        for task in self.live.values():
            if external_id is not None and task["external_id"] == external_id:
                return task
        return None

    def listed(self, filters: Mapping[str, Any], sort: str) -> list[int]:
        found = [task for task in self.live.values() if passes(task, filters)]
        return [task["id"] for task in in_order(found, sort)]

    def stats(self, filters: Mapping[str, Any]) -> dict[str, Any]:
        found = [task for task in self.live.values() if passes(task, filters)]
        zone = filters.get("time_zone", "UTC")
        return {
            "total": len(found),
            "overdue": sum(is_overdue(task, zone) for task in found),
            "by_status": {it: sum(task["status"] == it for task in found) for it in STATUSES},
            "by_priority": {it: sum(task["priority"] == it for task in found) for it in PRIORITIES},
        }
