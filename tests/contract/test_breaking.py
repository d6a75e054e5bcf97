"""The checker of breaking changes finds them, and lets harmless ones pass."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.breaking import breaking_changes

Document = dict[str, Any]
Change = Callable[[Document], object]
REVIEWED = Path(__file__).with_name("openapi.json")
SCHEMAS = "#/components/schemas"
TASKS = "/api/v1/tasks"
TASK = "/api/v1/tasks/{task_id}"


def schema(document: Document, name: str) -> Document:
    found: Document = document["components"]["schemas"][name]
    return found


def properties(document: Document, name: str) -> Document:
    found: Document = schema(document, name)["properties"]
    return found


def parameter(document: Document, name: str) -> Document:
    found: Document = next(
        it for it in document["paths"][TASKS]["get"]["parameters"] if it["name"] == name
    )
    return found


BREAKING: dict[str, tuple[Change, str]] = {
    "a path is gone": (lambda d: d["paths"].pop(TASK), "delete /api/v1/tasks/{task_id}: is gone"),
    "a method is gone": (lambda d: d["paths"][TASK].pop("patch"), f"patch {TASK}: is gone"),
    "an operation has another name": (
        lambda d: d["paths"][TASK]["get"].update(operationId="get_task"),
        f"get {TASK}: is now called get_task",
    ),
    "another scope is needed": (
        lambda d: d["paths"][TASK]["get"].update(security=[{"Login": ["tasks:admin"]}]),
        f"get {TASK}: needs another credential or scope",
    ),
    "a public operation needs a credential": (
        lambda d: d["paths"]["/health"]["get"].update(security=[{"ApiKey": []}]),
        "get /health: needs another credential or scope",
    ),
    "a parameter is gone": (
        lambda d: d["paths"][TASKS]["get"]["parameters"].remove(parameter(d, "q")),
        f"get {TASKS}: query.q is gone",
    ),
    "a parameter is required": (
        lambda d: parameter(d, "q").update(required=True),
        f"get {TASKS}: query.q is now required",
    ),
    "a new parameter is required": (
        lambda d: d["paths"][TASKS]["get"]["parameters"].append(
            {"in": "query", "name": "team", "required": True, "schema": {"type": "integer"}}
        ),
        f"get {TASKS}: query.team is new and required",
    ),
    "a page holds less": (
        lambda d: parameter(d, "per_page")["schema"].update(maximum=50),
        f"get {TASKS}: query.per_page: maximum has fallen",
    ),
    "a parameter has another type": (
        lambda d: parameter(d, "q")["schema"].update(type="integer"),
        f"get {TASKS}: query.q: string is refused now",
    ),
    "a field that could be sent is gone": (
        lambda d: properties(d, "TaskCreate").pop("tags"),
        f"post {TASKS}: body.tags is gone",
    ),
    "a field must be sent": (
        lambda d: schema(d, "TaskCreate")["required"].append("tags"),
        f"post {TASKS}: body.tags is now required",
    ),
    "a text must be shorter": (
        lambda d: properties(d, "TaskCreate")["title"].update(maxLength=100),
        f"post {TASKS}: body.title: maxLength has fallen",
    ),
    "a text must look otherwise": (
        lambda d: properties(d, "TaskCreate")["title"].update(pattern="^[a-z]*$"),
        f"post {TASKS}: body.title: pattern is another",
    ),
    "null may not be sent": (
        lambda d: properties(d, "TaskCreate")["due_at"].update(type="string"),
        f"post {TASKS}: body.due_at: null is refused now",
    ),
    "a value may not be sent": (
        lambda d: schema(d, "TaskPriority")["enum"].remove("critical"),
        f"post {TASKS}: body.priority: 'critical' is refused now",
    ),
    "a value may be answered": (
        lambda d: schema(d, "TaskPriority")["enum"].append("urgent"),
        f"get {TASK}: 200.data.priority: 'urgent' is new",
    ),
    "a media type is not taken": (
        lambda d: d["paths"][TASK]["patch"]["requestBody"]["content"].pop(
            "application/merge-patch+json"
        ),
        f"patch {TASK}: takes no application/merge-patch+json any more",
    ),
    "an operation of a batch is gone": (
        lambda d: properties(d, "TaskBatch")["operations"]["items"]["oneOf"].pop(),
        f"post {TASKS}/batch: body.operations[] oneOf: {SCHEMAS}/DeleteOperation is gone",
    ),
    "a success has another status": (
        lambda d: d["paths"][TASKS]["post"]["responses"].update(
            {"200": d["paths"][TASKS]["post"]["responses"].pop("201")}
        ),
        f"post {TASKS}: never answers 201 any more",
    ),
    "an answered field is gone": (
        lambda d: properties(d, "TaskRead").pop("version"),
        f"get {TASK}: 200.data.version is gone",
    ),
    "an answered field may be missing": (
        lambda d: schema(d, "TaskRead")["required"].remove("version"),
        f"get {TASK}: 200.data.version may be missing now",
    ),
    "an answered field may be null": (
        lambda d: properties(d, "TaskRead")["title"].update(type=["string", "null"]),
        f"get {TASK}: 200.data.title: null is new",
    ),
    "an answered field has another type": (
        lambda d: properties(d, "TaskRead")["id"].update(type="string"),
        f"get {TASK}: 200.data.id: string is new",
    ),
    "a header is gone": (
        lambda d: d["paths"][TASK]["get"]["responses"]["200"]["headers"].pop("ETag"),
        f"get {TASK}: 200 has no ETag any more",
    ),
}
HARMLESS: dict[str, Change] = {
    "nothing": lambda d: d,
    "a new path": lambda d: d["paths"].update({"/api/v1/new": d["paths"]["/health"]}),
    "a new optional parameter": lambda d: d["paths"][TASKS]["get"]["parameters"].append(
        {"in": "query", "name": "team", "required": False, "schema": {"type": "integer"}}
    ),
    "a new optional field": lambda d: properties(d, "TaskCreate").update(team={"type": "integer"}),
    "a new answered field": lambda d: properties(d, "TaskRead").update(team={"type": "integer"}),
    "a longer text": lambda d: properties(d, "TaskCreate")["title"].update(maxLength=500),
    "null may be sent": lambda d: properties(d, "TaskCreate")["title"].update(
        type=["string", "null"]
    ),
    "an answered field is never null": lambda d: properties(d, "TaskRead")["due_at"].update(
        type="string"
    ),
    "a field need not be sent": lambda d: schema(d, "TaskCreate")["required"].remove("title"),
    "an error that is never answered": lambda d: d["paths"][TASKS]["get"]["responses"].pop("503"),
    "a new header": lambda d: d["paths"][TASK]["get"]["responses"]["200"]["headers"].update(
        Age={"schema": {"type": "integer"}}
    ),
    "other words": lambda d: d["paths"][TASKS]["get"].update(summary="Find tasks"),
}


@pytest.fixture(scope="module")
def reviewed() -> Document:
    document: Document = json.loads(REVIEWED.read_text())
    return document


@pytest.mark.parametrize("name", BREAKING)
def test_what_breaks_clients_is_found(reviewed: Document, name: str) -> None:
    change, told = BREAKING[name]
    changed = copy.deepcopy(reviewed)
    change(changed)

    assert told in breaking_changes(reviewed, changed)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_breaks_nobody_passes(reviewed: Document, name: str) -> None:
    changed = copy.deepcopy(reviewed)
    HARMLESS[name](changed)

    assert breaking_changes(reviewed, changed) == []
