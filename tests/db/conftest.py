"""Folders for the tests of the development database."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.embedded import embedded_database, throwaway_data_dir
from tests.db.support import command_lines, eventually


@pytest.fixture(autouse=True, scope="module")
def strict_umask() -> Iterator[None]:
    """Files are closed to others unless they are opened on purpose."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder that `nobody` can reach, unlike root's tmp_path."""
    with throwaway_data_dir() as path:
        path.chmod(0o711)
        yield path
        # A server that is still stopping would write into the folder while it is removed.
        eventually(lambda: not [line for line in command_lines() if f"-D {path}/" in line])


@pytest.fixture(scope="module")
def made_before() -> Iterator[Path]:
    with throwaway_data_dir() as path:
        with embedded_database(path):
            pass
        yield path


@pytest.fixture
def data_dir(made_before: Path, folder: Path) -> Path:
    """Return the folder of a database that was made, and stopped, before."""
    copy = folder / "database"
    subprocess.run(["cp", "-a", str(made_before), str(copy)], check=True)  # noqa: S607 - Keeps owners.
    return copy
