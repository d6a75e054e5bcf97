import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]


def workflow(name: str = "ci") -> dict[str, Any]:
    text = (ROOT / ".github/workflows" / f"{name}.yaml").read_text()
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def workflows() -> list[dict[str, Any]]:
    return [workflow(path.stem) for path in (ROOT / ".github/workflows").iterdir()]


def steps() -> list[dict[str, Any]]:
    return [step for it in workflows() for job in it["jobs"].values() for step in job["steps"]]


def supported_pythons() -> list[str]:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    pattern = re.compile(r"Programming Language :: Python :: (3\.\d+)")
    return [match[1] for text in classifiers if (match := pattern.fullmatch(text))]


def test_the_tests_run_on_every_python_that_the_project_supports() -> None:
    assert workflow()["jobs"]["test"]["strategy"]["matrix"]["python"] == supported_pythons()


def test_the_tests_run_on_the_oldest_postgresql_too() -> None:
    job = workflow()["jobs"]["test-oldest-postgresql"]
    assert job["services"]["postgres"]["image"] == "postgres:15"
    assert any("TEST_DATABASE_URL" in step.get("env", {}) for step in job["steps"])


def test_only_the_job_that_publishes_a_release_may_do_more_than_read_the_code() -> None:
    assert all(it["permissions"] == {"contents": "read"} for it in workflows())
    assert not [job for job in workflow()["jobs"].values() if "permissions" in job]
    release = workflow("release")["jobs"]
    assert "permissions" not in release["pack"]
    assert release["publish"]["permissions"] == {"contents": "write"}
    # What may write runs nothing of the repository.
    assert not [step for step in release["publish"]["steps"] if "make" in step.get("run", "")]
    checkouts = [step for step in steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_every_job_has_a_time_limit() -> None:
    jobs = [job for it in workflows() for job in it["jobs"].values()]
    assert all(job["timeout-minutes"] <= 20 for job in jobs)


def test_every_action_is_githubs_own_and_has_its_version() -> None:
    uses = [step["uses"] for step in steps() if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", use) for use in uses)


def test_the_workflow_runs_make_targets_that_exist() -> None:
    called = {
        target
        for step in steps()
        for target in re.findall(r"^make ([a-z-]+)", step.get("run", ""), re.MULTILINE)
    }
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert called >= {"lint", "test", "audit", "docker-up", "accept-release", "release"}
    assert called <= targets


def test_a_release_is_made_by_a_tag_alone() -> None:
    # YAML reads `on` as true.
    assert workflow("release")[True] == {"push": {"tags": ["v*"]}}  # type: ignore[index]


def test_hooks_fetch_nothing_from_elsewhere() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    for hook in hooks["repos"][0]["hooks"]:
        assert hook["language"] in {"system", "pygrep"}
