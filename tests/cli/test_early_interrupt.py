"""Ctrl-C while the command still loads its modules."""

import signal
import subprocess
from pathlib import Path

import pytest

from app.__main__ import main
from tests.support import CLEAN_ENVIRONMENT, TASKFLOW

# Stands in for a module that the command line imports, so that the moment is always the same.
INTERRUPTED_MODULE = """
import os, signal, sys
os.kill(os.getpid(), signal.SIGINT)
sys.exit("It goes on.")
"""


def interrupted_while_loading(folder: Path, *, trap: str) -> "subprocess.CompletedProcess[str]":
    """Run a command from a shell that has set this trap, and interrupt it while it loads."""
    (folder / "typer.py").write_text(INTERRUPTED_MODULE)
    return subprocess.run(
        ["/bin/sh", "-c", f'{trap}; exec "$0" version', TASKFLOW],
        env=CLEAN_ENVIRONMENT | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_ends_the_command_at_once_and_without_a_word(tmp_path: Path) -> None:
    done = interrupted_while_loading(tmp_path, trap=":")

    assert done.returncode == -signal.SIGINT
    assert done.stdout + done.stderr == ""


def test_it_is_ignored_where_the_parent_ignores_it(tmp_path: Path) -> None:
    done = interrupted_while_loading(tmp_path, trap="trap '' INT")

    assert done.returncode == 1
    assert done.stderr == "It goes on.\n"


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_the_command_itself_finds_the_handler_as_it_was(
    monkeypatch: pytest.MonkeyPatch, handler: signal.Handlers
) -> None:
    found = []
    monkeypatch.setattr("app.cli.main", lambda: found.append(signal.getsignal(signal.SIGINT)))
    before = signal.signal(signal.SIGINT, handler)
    try:
        main()
    finally:
        signal.signal(signal.SIGINT, before)

    assert found == [handler]
