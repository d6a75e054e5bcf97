"""What the processes of a service take of the machine, as Linux tells it."""

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")


def _fields(pid: int) -> list[str]:
    """The fields of /proc/…/stat behind the program's name: the state, the parent and so on."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def with_children(pid: int) -> Iterator[int]:
    """A process and all that descend from it; none where there is no /proc."""
    if not (_PROC / str(pid)).exists():
        return
    yield pid
    for children in (_PROC / str(pid) / "task").glob("*/children"):
        for child in children.read_text().split():
            yield from with_children(int(child))


def processor_seconds(pid: int) -> float:
    """What a process and those that live of its descendants have computed so far."""
    fields = [_fields(each) for each in with_children(pid)]
    return sum(int(of[11]) + int(of[12]) for of in fields) / _TICKS


def resident_megabytes(pid: int) -> dict[int, float]:
    """The memory in use by a process and its descendants (shared pages count in each), by id."""
    return {each: int(_fields(each)[21]) * _PAGE / 1e6 for each in with_children(pid)}
