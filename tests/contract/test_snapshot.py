"""The document is the one that was reviewed, and breaks no client of the last release."""

import difflib
import json
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from app.main import create_app
from tests.contract.breaking import breaking_changes
from tests.support import service_settings

HERE = Path(__file__).parent
REVIEWED = HERE / "openapi.json"
RELEASED = HERE / "released.json"
"""The document of the last release, which `make accept-release` puts here."""


@pytest.fixture(scope="module")
def live() -> dict[str, Any]:
    return create_app(service_settings("postgresql://unused/unused")).openapi()


def test_the_document_is_the_reviewed_one(live: dict[str, Any]) -> None:
    reviewed = REVIEWED.read_text().splitlines()
    present = json.dumps(live, indent=2, ensure_ascii=False).splitlines()

    differences = list(difflib.unified_diff(reviewed, present, "reviewed", "now", lineterm="", n=2))

    assert not differences, (
        "The document has changed. If this is meant: make accept-openapi, and have the difference "
        "reviewed.\n" + "\n".join(differences[:200])
    )


def test_the_document_breaks_no_client_of_the_last_release(live: dict[str, Any]) -> None:
    broken = breaking_changes(json.loads(RELEASED.read_text()), live)

    assert not broken, "This would break clients of the last release:\n" + "\n".join(broken)


def test_the_documents_are_of_this_version_or_an_earlier_one(live: dict[str, Any]) -> None:
    released, reviewed = (
        Version(json.loads(path.read_text())["info"]["version"]) for path in (RELEASED, REVIEWED)
    )

    assert released <= reviewed == Version(live["info"]["version"])
