"""The document passes every linter, with the exceptions that stand beside this file."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.sdk.generate import write_document
from tests.sdk.tools import NODE, PYTHON, install_node, install_python, node_program, run

HERE = Path(__file__).parent
pytestmark = pytest.mark.sdk
MAXIMUM_EXCEPTIONS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the document lies beside the linters' settings, with the rule sets within reach."""
    folder = tmp_path_factory.mktemp("lint")
    write_document(folder / "openapi.json")
    for settings in HERE.glob("*.yaml"):
        shutil.copy(settings, folder)
    return folder


@pytest.fixture(scope="module")
def linters(folder: Path) -> None:
    install_node()
    (folder / "node_modules").symlink_to(NODE / "node_modules")


def spoilt(folder: Path) -> Path:
    """The document with a fault for each linter: that it is found shows that the linter runs."""
    document: dict[str, Any] = json.loads((folder / "openapi.json").read_text())
    me = document["paths"]["/api/v1/users/me"]["get"]
    me["tags"] = ["nowhere"]
    me["operationId"] = "read_task"
    me["responses"]["200"]["headers"] = {}
    spoilt = folder / "spoilt.json"
    spoilt.write_text(json.dumps(document))
    return spoilt


@pytest.mark.node
@pytest.mark.usefixtures("linters")
def test_spectral_finds_nothing_by_any_rule_of_openapi_and_owasp(folder: Path) -> None:
    spectral = (node_program("spectral"), "lint", "--ruleset", "spectral.yaml")
    strict = ("--fail-severity", "hint")

    assert "No results" in run(*spectral, *strict, "openapi.json", cwd=folder)

    with pytest.raises(Exception, match="operation-tag-defined") as found:
        run(*spectral, *strict, spoilt(folder), cwd=folder)
    assert "owasp:api4:2023-rate-limit" in str(found.value)


@pytest.mark.node
@pytest.mark.usefixtures("linters")
def test_redocly_finds_nothing_by_its_strict_rules(folder: Path) -> None:
    redocly = (node_program("redocly"), "lint", "--config", "redocly.yaml")
    offline = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}

    printed = run(*redocly, "openapi.json", cwd=folder, **offline)

    assert "Your API description is valid" in printed
    assert "You have" not in printed
    with pytest.raises(Exception, match="operation-operationId-unique"):
        run(*redocly, spoilt(folder), cwd=folder, **offline)


def test_the_document_is_openapi(folder: Path) -> None:
    install_python()
    validator = PYTHON.with_name("openapi-spec-validator")

    assert "OK" in run(validator, folder / "openapi.json")

    with pytest.raises(Exception, match="read_task"):
        run(validator, spoilt(folder))


def test_the_exceptions_are_few_and_each_has_its_reason() -> None:
    lines = [
        line
        for name in ("spectral.yaml", "redocly.yaml")
        for line in (HERE / name).read_text().splitlines()
    ]
    exceptions = [index for index, line in enumerate(lines) if "off" in line.partition("#")[0]]

    assert len(exceptions) <= MAXIMUM_EXCEPTIONS
    for index in exceptions:
        assert "#" in lines[index].replace("#/", "") or lines[index - 1].lstrip().startswith("#")
