import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PRODUCTION = "requirements.txt"
DEVELOPMENT = "requirements-dev.txt"
BOTH = pytest.mark.parametrize("lock", [PRODUCTION, DEVELOPMENT])


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def entries(lock: str) -> list[str]:
    """Each locked package with its options, as one line."""
    lines = (ROOT / lock).read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    return text.replace("\\\n", " ").splitlines()


def locked(lock: str) -> dict[str, Requirement]:
    requirements = [Requirement(entry.split(" --hash=")[0]) for entry in entries(lock)]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def version(requirement: Requirement) -> str:
    (pin,) = requirement.specifier
    assert pin.operator == "=="
    return pin.version


def unmet(declared: list[str], lock: str) -> list[str]:
    pins = locked(lock)
    return [
        text
        for text in declared
        if (name := canonicalize_name((wanted := Requirement(text)).name)) not in pins
        or not wanted.specifier.contains(version(pins[name]), prereleases=True)
    ]


@BOTH
def test_every_locked_package_has_one_version_and_its_hashes(lock: str) -> None:
    assert entries(lock)
    for entry in entries(lock):
        name, *hashes = entry.split(" --hash=sha256:")
        assert version(Requirement(name))
        assert hashes, f"{name} has no hash"
        assert all(len(digest.strip()) == 64 for digest in hashes)


@BOTH
def test_locks_hold_no_addresses_and_no_options_but_hashes(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert " @ " not in text
    assert not [line for line in text.splitlines() if line.startswith(("-", "/", "."))]


@BOTH
def test_locks_do_not_name_the_project_itself(lock: str) -> None:
    assert "taskflow" not in locked(lock)


def test_the_production_lock_meets_every_dependency() -> None:
    assert unmet(project()["dependencies"], PRODUCTION) == []


def test_the_development_lock_meets_every_dependency_and_extra() -> None:
    extras = project()["optional-dependencies"]
    declared = [*project()["dependencies"], *extras["embedded"], *extras["dev"]]
    assert unmet([text for text in declared if not text.startswith("taskflow")], DEVELOPMENT) == []


def test_development_runs_the_versions_of_production() -> None:
    development = locked(DEVELOPMENT)
    for name, requirement in locked(PRODUCTION).items():
        assert str(development[name]) == str(requirement)


def test_the_build_backend_is_locked_for_development_and_absent_from_production() -> None:
    build_system = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    assert unmet(build_system["requires"], DEVELOPMENT) == []
    assert "flit-core" not in locked(PRODUCTION)
