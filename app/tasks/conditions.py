"""The versions of tasks in conditional requests."""

import re
from typing import Any

from fastapi import Response

from app.core.conditions import EntityTags, parse_entity_tags, set_entity_tag
from app.tasks.schemas import TaskRead

# As many digits as surely fit into the column; no task is ever changed so often.
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


ETAG_HEADER: dict[str, Any] = {
    "ETag": {
        "description": (
            "The state that the answer shows, for `If-Match` and `If-None-Match`: the task's id "
            "and version, in quotes."
        ),
        "required": True,
        "schema": {
            "type": "string",
            "maxLength": 35,
            "pattern": '^"[0-9]+-[0-9]+"$',
            "examples": ['"7-1"'],
        },
    },
}


def entity_tag(task: TaskRead) -> str:
    """The strong entity tag of a task, without its quotes."""
    return f"{task.id}-{task.version}"


def if_match(lines: list[str]) -> EntityTags | None:
    return parse_entity_tags(lines, field="header.if-match")


def if_none_match(lines: list[str]) -> EntityTags | None:
    return parse_entity_tags(lines, field="header.if-none-match")


def versions_named(lines: list[str], task_id: int) -> frozenset[int] | None:
    """The versions of this task that an `If-Match` names; None for any, as without the header."""
    tags = if_match(lines)
    if tags is None or tags.any:
        return None
    parts = (tag.partition("-") for tag in tags.strong)
    return frozenset(
        int(version)
        for named, _, version in parts
        if named == str(task_id) and _VERSION.fullmatch(version)
    )


def carry(response: Response, task: TaskRead) -> None:
    """Name the version of the task that the response carries."""
    set_entity_tag(response, entity_tag(task))
