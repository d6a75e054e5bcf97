import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("make")
    assert program is not None, "the tests need make"
    # The tests themselves may run under make, whose options would be inherited.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON"}
    }
    return subprocess.run(
        [program, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def declared_targets() -> set[str]:
    declaration = re.search(r"^\.PHONY: (help .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert declaration is not None
    return set(declaration[1].split())


def test_make_help_lists_every_target_with_a_description() -> None:
    answer = make("help")
    assert answer.returncode == 0
    described = dict(re.findall(r"^ +make ([a-z-]+) +(\S.*)$", answer.stdout, re.MULTILINE))
    assert set(described) == declared_targets()


def test_make_alone_is_make_help() -> None:
    assert make().stdout == make("help").stdout


def test_every_target_that_is_described_is_declared() -> None:
    rules = re.findall(r"^([a-z-]+):(?! export).*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(rules) == declared_targets()


def test_an_installation_without_a_python_says_so_in_one_sentence(tmp_path: Path) -> None:
    answer = make("install", f"VENV={tmp_path}/venv", f"PYTHON={tmp_path}/no-python")
    assert answer.returncode != 0
    assert "taskflow needs Python 3.11 or later, and none was found." in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "venv").exists()


def test_an_installation_with_an_old_python_says_which_it_found(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text(
        "#!/bin/sh\necho 'taskflow needs Python 3.11 or later; old is 3.9.2.' >&2\nexit 1\n"
    )
    old.chmod(0o755)
    answer = make("install", f"VENV={tmp_path}/venv", f"PYTHON={old}")
    assert answer.returncode != 0
    assert "taskflow needs Python 3.11 or later; old is 3.9.2." in answer.stderr
    assert "make PYTHON=" in answer.stderr
