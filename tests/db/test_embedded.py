"""The development database starts, stops, is shared, and survives what kills its owner."""

import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from app.db import embedded
from app.db.embedded import embedded_database, throwaway_data_dir
from app.db.programs import EmbeddedDatabaseError
from tests.db.support import (
    IS_ROOT,
    OUTLIVED,
    PATIENCE,
    Owner,
    command_lines,
    eventually,
    postmaster,
    run_sql,
    servers_of,
)


def test_data_survives_stop_and_start(data_dir: Path) -> None:
    with embedded_database(data_dir) as database:
        run_sql(database.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert not servers_of(data_dir)
    with embedded_database(data_dir) as database:
        assert run_sql(database.url, "SELECT answer FROM kept") == 42
    assert "database system is shut down" in (data_dir / "postgres.log").read_text()


def test_a_first_start_tells_what_it_does_and_makes_a_utf8_database(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TZ": "Asia/Tokyo", "LC_ALL": "tlh_QX", "PGDATA": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    with embedded_database(folder / "new", throwaway=True, notify=said.append) as database:
        run_sql(database.url, "CREATE EXTENSION pg_trgm")
        # With the wrong locale, PostgreSQL finds no words outside ASCII and cannot fold their case.
        assert run_sql(database.url, "SELECT similarity('ЁЛКА', 'ёлка')") == 1
        assert run_sql(database.url, "SELECT upper('éß')") == "Éß"
        # The same order on every machine, which the C library's locales don't promise.
        builtin = "datlocprovider = 'b' FROM pg_database WHERE datname = current_database()"
        is_modern = int(run_sql(database.url, "SHOW server_version_num")) >= 170000
        assert run_sql(database.url, f"SELECT {builtin}") == is_modern
        assert run_sql(database.url, "SHOW timezone") == "UTC"
    assert [text.split()[0] for text in said if "Copying" not in text] == ["Creating", "Starting"]


@pytest.mark.parametrize(("throwaway", "fsync"), [(False, "on"), (True, "off")])
def test_only_a_throwaway_database_gives_up_safety(
    data_dir: Path, *, throwaway: bool, fsync: str
) -> None:
    with embedded_database(data_dir, throwaway=throwaway) as database:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            assert run_sql(database.url, f"SHOW {name}") == fsync
        assert run_sql(database.url, "SHOW listen_addresses") == "127.0.0.1"


def test_a_killed_owner_leaves_no_server_and_loses_nothing_committed(data_dir: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("Only Linux tells a child that its parent was killed.")
    with Owner(data_dir) as owner:
        run_sql(owner.is_ready()["url"], "CREATE TABLE kept AS SELECT 42 AS answer")
        owner.process.kill()
        owner.process.wait(PATIENCE)
        eventually(lambda: not servers_of(data_dir))
    with embedded_database(data_dir) as database:
        assert run_sql(database.url, "SELECT answer FROM kept") == 42


@pytest.mark.parametrize("proc", ["/proc", "/nowhere"], ids=["by proc", "by ps"])
def test_a_server_that_outlived_its_owner_is_stopped_by_the_next_start(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, proc: str
) -> None:
    if shutil.which("ps") is None:
        pytest.skip("There is no ps here.")
    monkeypatch.setattr(embedded, "_PROC", Path(proc))
    with Owner(data_dir, OUTLIVED) as owner:
        run_sql(owner.is_ready()["url"], "CREATE TABLE kept AS SELECT 42 AS answer")
        owner.process.kill()
        owner.process.wait(PATIENCE)
    left_behind = postmaster(data_dir)
    assert servers_of(data_dir)
    said: list[str] = []
    with embedded_database(data_dir, notify=said.append) as database:
        assert run_sql(database.url, "SELECT answer FROM kept") == 42
        assert postmaster(data_dir) != left_behind
        eventually(lambda: len(servers_of(data_dir)) == 1)
    assert f"(process {left_behind})" in said[0]


def test_a_server_whose_owner_and_postmaster_were_killed_recovers(data_dir: Path) -> None:
    with Owner(data_dir, OUTLIVED) as owner:
        run_sql(owner.is_ready()["url"], "CREATE TABLE kept AS SELECT 42 AS answer")
        os.kill(postmaster(data_dir), signal.SIGKILL)
        owner.process.kill()
        owner.process.wait(PATIENCE)
    said: list[str] = []
    with embedded_database(data_dir, notify=said.append) as database:
        assert run_sql(database.url, "SELECT answer FROM kept") == 42
    assert said[0].startswith("Recovering")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_stops_in_order_when_its_owner_is_told_to(data_dir: Path, number: int) -> None:
    with Owner(data_dir) as owner:
        owner.is_ready()
        owner.process.send_signal(number)
        assert owner.ends() == 0
    assert not servers_of(data_dir)
    assert "database system is shut down" in (data_dir / "postgres.log").read_text()


def test_ctrl_c_leaves_the_server_running_until_its_owner_has_drained(data_dir: Path) -> None:
    with Owner(data_dir) as owner:
        url = owner.is_ready()["url"]
        os.killpg(owner.process.pid, signal.SIGINT)
        assert owner.says("interrupted")
        assert run_sql(url, "SELECT 42") == 42
        assert owner.ends() == 0


def test_two_first_starts_at_the_same_moment_share_one_server(folder: Path) -> None:
    data_dir = folder / "new"
    with Owner(data_dir) as one, Owner(data_dir) as other:
        ready = {one: one.is_ready(), other: other.is_ready()}
        owner, sharer = sorted(ready, key=lambda process: ready[process]["shared_with"] or 0)
        assert ready[owner]["shared_with"] is None
        assert ready[sharer]["shared_with"] == owner.process.pid
        assert ready[sharer]["url"] == ready[owner]["url"]
        eventually(lambda: len(servers_of(data_dir)) == 1)
        assert sharer.ends() == 0
        assert run_sql(ready[owner]["url"], "SELECT 42") == 42
        assert owner.ends() == 0
    assert not servers_of(data_dir)


def test_a_second_start_says_whose_server_it_shares(data_dir: Path) -> None:
    with embedded_database(data_dir) as first, embedded_database(data_dir) as second:
        assert first.shared_with is None
        assert second.shared_with == os.getpid()
        assert second.url == first.url


def test_who_waits_for_a_start_takes_over_when_the_starter_dies(data_dir: Path) -> None:
    with (data_dir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with Owner(data_dir) as waiting:
            assert waiting.says("notice")["notice"].startswith("Waiting")
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert waiting.is_ready()["shared_with"] is None


def test_waiting_for_another_start_has_an_end(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "START_LIMIT", 0.05)
    with (data_dir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # The line of an owner that is dead now must not be taken for a running server.
        lock.write("999999999 5432\n")
        lock.flush()
        with (
            pytest.raises(EmbeddedDatabaseError, match=r"Process .* isn't ready"),
            embedded_database(data_dir),
        ):
            pass


def test_a_start_while_the_server_stops_does_not_share_it(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = embedded._stop  # noqa: SLF001 - The stop is too short to be met from outside.

    def meet_another_start(process: subprocess.Popen[bytes]) -> None:
        with Owner(data_dir) as late:
            assert late.says("notice")["notice"].startswith("Waiting")
            stop(process)

    monkeypatch.setattr(embedded, "_stop", meet_another_start)
    with embedded_database(data_dir) as database:
        assert database.shared_with is None
    assert not servers_of(data_dir)


def test_an_interrupted_start_leaves_no_server(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        assert servers_of(data_dir)
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_is_ready", interrupt)
    with pytest.raises(KeyboardInterrupt):
        embedded_database(data_dir).__enter__()
    assert not servers_of(data_dir)


def test_an_initdb_cut_off_halfway_is_done_anew(folder: Path) -> None:
    data_dir = folder / "new"
    with Owner(data_dir) as owner:
        eventually(lambda: list(data_dir.glob("data.new-*/base/1")))
        owner.process.kill()
        owner.process.wait(PATIENCE)
    assert not (data_dir / "data").exists()
    # The remains of this very run may still be written to; those of an older one are removed.
    (data_dir / "data.new-older" / "base").mkdir(parents=True)
    with embedded_database(data_dir, throwaway=True) as database:
        assert run_sql(database.url, "SELECT 42") == 42
    assert not (data_dir / "data.new-older").exists()


def test_a_folder_of_another_major_version_is_refused_in_words(data_dir: Path) -> None:
    (data_dir / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedDatabaseError) as refused, embedded_database(data_dir):
        pass
    assert f"The database in {data_dir} was made by PostgreSQL 9, but PostgreSQL 1" in str(
        refused.value
    )


def test_the_password_shows_neither_in_the_repr_nor_in_processes_nor_in_the_log(
    data_dir: Path,
) -> None:
    password = (data_dir / "password").read_text()
    assert len(password) >= 32
    assert stat.S_IMODE((data_dir / "password").stat().st_mode) == 0o600
    with embedded_database(data_dir) as database:
        assert f":{password}@" in database.url
        assert password not in repr(database)
        assert not [line for line in command_lines() if password in line]
    assert password not in (data_dir / "postgres.log").read_text()


def test_a_path_with_spaces_quotes_and_letters_outside_ascii_works(folder: Path) -> None:
    data_dir = folder / "it's Übung $HOME ☂"
    with embedded_database(data_dir, throwaway=True) as database:
        assert run_sql(database.url, "SELECT 42") == 42
        with embedded_database(data_dir) as shared:
            assert shared.shared_with == os.getpid()


@pytest.mark.parametrize("pid", ["a stranger's", "cut off"])
def test_a_stale_pid_file_does_not_keep_the_server_from_starting(data_dir: Path, pid: str) -> None:
    user = "nobody" if IS_ROOT else None
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=user) as stranger:  # noqa: S607
        line = f"{stranger.pid}\n{data_dir}/data\n" if pid == "a stranger's" else ""
        (data_dir / "data" / "postmaster.pid").write_text(line)
        with embedded_database(data_dir) as database:
            assert run_sql(database.url, "SELECT 42") == 42
        assert stranger.poll() is None


def test_a_port_taken_at_the_last_moment_is_replaced(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1]])
        choose = embedded._free_port  # noqa: SLF001 - What happens between its look and the start?
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports, None) or choose())
        with embedded_database(data_dir) as database:
            assert run_sql(database.url, "SELECT 42") == 42


def test_a_failed_start_shows_the_end_of_the_log_and_where_it_is(data_dir: Path) -> None:
    (data_dir / "data" / "global" / "pg_control").write_bytes(b"")
    with pytest.raises(EmbeddedDatabaseError) as failed, embedded_database(data_dir):
        pass
    assert str(data_dir / "postgres.log") in str(failed.value)
    assert "pg_control" in str(failed.value)


def test_throwaway_folders_go_at_the_end_and_those_of_killed_runs_at_the_next_start() -> None:
    with throwaway_data_dir() as used:
        abandoned, young = (used.with_name(f"{used.name}-{name}") for name in ("old", "young"))
        abandoned.mkdir()
        young.mkdir()
        for path in (used, abandoned):
            os.utime(path, (0, 0))
        with throwaway_data_dir():
            assert [path.exists() for path in (used, abandoned, young)] == [True, False, True]
        young.rmdir()
    assert not used.exists()
