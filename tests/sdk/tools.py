"""The pinned generators and linters, which are kept in `build/tools` once they are installed."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TOOLS = Path(os.environ.get("SDK_TOOLS", ROOT / "build" / "tools"))
PYTHON = TOOLS / "python" / "bin" / "python"
NODE = TOOLS / "node"


class ToolFailed(Exception):
    """A tool failed or warned; says what it printed."""


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """What the command prints. Raises `ToolFailed` unless it succeeds."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        shown = " ".join(map(str, command))
        raise ToolFailed(f"{shown} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def is_installed(folder: Path, lock: Path) -> bool:
    """Whether the folder was made from this very lock."""
    stamp = folder / ".lock"
    return stamp.exists() and stamp.read_text() == _digest(lock)


def mark_installed(folder: Path, lock: Path) -> None:
    (folder / ".lock").write_text(_digest(lock))


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def install_locked(folder: Path, lock: Path) -> None:
    """Make a virtual environment of just what a hashed lock names, unless it is there already."""
    if is_installed(folder, lock):
        return
    uv = Path(sys.executable).with_name("uv")
    locked = ("--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes")
    run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder)
    target = ("--python", folder / "bin" / "python", "--requirement", lock)
    run(uv, "pip", "install", *locked, *target)
    mark_installed(folder, lock)


def install_python() -> None:
    """The generators that are Python packages, apart from the project's own packages."""
    install_locked(TOOLS / "python", HERE / "requirements.txt")


def install_node() -> None:
    """The generators and linters that are npm packages."""
    lock = HERE / "package-lock.json"
    if is_installed(NODE, lock):
        return
    shutil.rmtree(NODE, ignore_errors=True)
    NODE.mkdir(parents=True)
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(HERE / name, NODE)
    run("npm", "ci", "--prefer-offline", cwd=NODE)
    mark_installed(NODE, lock)


def node_program(name: str) -> Path:
    return NODE / "node_modules" / ".bin" / name
