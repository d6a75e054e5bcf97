"""What is marked as deprecated tells its callers so, in every answer and in its description."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.conformance import REVIEWED

PATH = "/api/v1/tasks/stats"
DEPRECATION = {
    "description": "When it was deprecated (RFC 9745).",
    "required": True,
    "schema": {"type": "string", "pattern": "^@[0-9]+$", "examples": ["@1796083200"]},
}


def untold(document: dict[str, Any]) -> Iterator[str]:
    """Each deprecated operation that does not say so where its users see it."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if not operation.get("deprecated"):
                continue
            if "Instead:" not in operation["description"]:
                yield f"{method} {path}: the description has no `Instead:`"
            for status, response in operation["responses"].items():
                header = response.get("headers", {}).get("Deprecation", {})
                if status.startswith("2") and not header.get("required"):
                    yield f"{method} {path}: a {status} need not have Deprecation"


@pytest.fixture
def reviewed() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(REVIEWED.read_text())
    return document


def test_what_is_deprecated_says_so(reviewed: dict[str, Any]) -> None:
    assert list(untold(reviewed)) == []


def test_an_operation_that_only_the_document_deprecates_is_found(reviewed: dict[str, Any]) -> None:
    document = copy.deepcopy(reviewed)
    operation = document["paths"][PATH]["get"]
    operation["deprecated"] = True

    assert list(untold(document)) == [
        f"get {PATH}: the description has no `Instead:`",
        f"get {PATH}: a 200 need not have Deprecation",
    ]

    operation["description"] += "\n\nInstead: `list_tasks`."
    operation["responses"]["200"]["headers"]["Deprecation"] = DEPRECATION
    assert list(untold(document)) == []
