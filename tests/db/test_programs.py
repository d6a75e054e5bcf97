"""Finding the programs of PostgreSQL, and running them as a user whom they accept."""

import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from app.db import programs
from app.db.embedded import embedded_database
from app.db.programs import EmbeddedDatabaseError
from tests.db.support import (
    IS_ROOT,
    PATIENCE,
    Owner,
    postmaster,
    run_sql,
    servers_of,
)


def test_a_child_whose_parent_died_before_it_could_ask_ends_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    ask = programs._die_with_us(signal.SIGKILL)  # noqa: SLF001 - Too short a moment to meet from outside.
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, preexec_fn=ask) as child:  # noqa: PLW1509, S607
        assert child.wait(PATIENCE) == 1


@pytest.fixture
def without_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)


@pytest.mark.usefixtures("without_wheel")
def test_missing_programs_are_told_in_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(programs, "_SYSTEM_FOLDERS", ())
    with pytest.raises(EmbeddedDatabaseError, match=r"PostgreSQL 15 or later.*DATABASE_URL"):
        embedded_database(folder / "new").__enter__()


@pytest.mark.usefixtures("without_wheel")
@pytest.mark.parametrize(
    ("version", "words"),
    [("14.9", r"No PostgreSQL was found, only 14\.9\."), ("15.9", r"initdb failed .*\nDisk full")],
)
def test_programs_that_are_too_old_or_fail_are_told_in_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch, version: str, words: str
) -> None:
    scripts = {
        "postgres": f"echo 'postgres (PostgreSQL) {version} (Debian)'",
        "initdb": "echo Disk full; exit 1",
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(programs, "_SYSTEM_FOLDERS", ())
    with pytest.raises(EmbeddedDatabaseError, match=words):
        embedded_database(folder / "new").__enter__()
    assert not list((folder / "new").glob("data*"))


@pytest.mark.usefixtures("without_wheel")
def test_the_systems_postgresql_serves_where_there_is_no_wheel(folder: Path) -> None:
    try:
        with embedded_database(folder / "new", throwaway=True) as database:
            assert run_sql(database.url, "SELECT lower('ÄÖ')") == "äö"
    except EmbeddedDatabaseError as error:
        if "No PostgreSQL was found" not in str(error):
            raise
        pytest.skip("There is no other PostgreSQL here.")


def test_a_folder_that_cannot_be_made_is_told_in_words(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(EmbeddedDatabaseError, match=r"can't be used: .*DATABASE_URL"):
        embedded_database(folder / "file" / "new").__enter__()


@pytest.mark.skipif(IS_ROOT, reason="Root's folder lets the user nobody pass.")
def test_an_ordinary_users_folder_is_closed_to_others(data_dir: Path) -> None:
    with embedded_database(data_dir):
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700


@pytest.mark.skipif(not IS_ROOT, reason="Only root has to run PostgreSQL as somebody else.")
class TestRoot:
    def test_postgresql_runs_as_nobody_in_a_folder_that_only_root_can_change(
        self, data_dir: Path
    ) -> None:
        with embedded_database(data_dir):
            process = Path(f"/proc/{postmaster(data_dir)}")
            assert process.owner() == "nobody"
            assert "\nGroups:\t65534 \n" in (process / "status").read_text()
            assert (data_dir / "data").owner() == "nobody"
            assert (data_dir.owner(), (data_dir / "lock").owner()) == ("root", "root")
            assert stat.S_IMODE(data_dir.stat().st_mode) == 0o710

    def test_two_first_starts_share_one_copy_of_the_programs(self, folder: Path) -> None:
        copies = folder / "programs"
        before = f"embedded.programs.ROOTS_FOLDER = Path({str(copies)!r})"
        with Owner(folder / "one", before) as one, Owner(folder / "other", before) as other:
            assert run_sql(one.is_ready()["url"], "SELECT 42") == 42
            assert run_sql(other.is_ready()["url"], "SELECT 42") == 42
            assert servers_of(folder / "one")[0].startswith(str(copies))
            assert (one.ends(), other.ends()) == (0, 0)
        assert len(list(copies.glob("postgresql-*"))) == 1

    def test_a_working_directory_that_nobody_can_reach_does_not_matter(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with embedded_database(folder / "new", throwaway=True) as database:
            assert run_sql(database.url, "SELECT 42") == 42

    def test_a_closed_parent_folder_is_named(self, folder: Path) -> None:
        folder.chmod(0o700)
        with pytest.raises(EmbeddedDatabaseError, match=f"out of its reach: {folder} is closed"):
            embedded_database(folder / "new").__enter__()

    def test_a_folder_of_somebody_else_is_refused_untouched(self, data_dir: Path) -> None:
        os.chown(data_dir, 12345, 12345)
        data_dir.chmod(0o700)
        with pytest.raises(EmbeddedDatabaseError, match="isn't root's folder"):
            embedded_database(data_dir).__enter__()
        assert (data_dir.stat().st_uid, stat.S_IMODE(data_dir.stat().st_mode)) == (12345, 0o700)
