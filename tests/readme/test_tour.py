"""The README's tour: every command of it, in order, against a running service."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.core.settings import CHECKOUT, Settings
from app.db.embedded import throwaway_data_dir
from tests.support import CLEAN_ENVIRONMENT, RunningService

README = (CHECKOUT / "README.md").read_text()
TOUR = README.split("## A five-minute tour")[1].split("\n## ")[0]
ADDRESS = "http://127.0.0.1:8000"
END_OF_STEP = "---- end of step ----"


def steps() -> list[tuple[str, str]]:
    """The tour's commands, each with the text that its output must hold."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```sh\n(.*?)```", TOUR, flags=re.DOTALL):
        command = ""
        for line in block.splitlines():
            if line.startswith("# → "):
                found.append((command, line.removeprefix("# → ")))
                command = ""
            else:
                command += line + "\n"
        if command:
            found.append((command, ""))
    return found


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    with throwaway_data_dir() as folder:
        service = RunningService({"DATA_DIR": str(folder)}, tmp_path / "log")
        service.wait_until_ready()
        yield service
        service.stop()


@pytest.mark.long
@pytest.mark.curl
def test_every_command_of_the_tour_does_what_the_readme_says(service: RunningService) -> None:
    tour = steps()
    assert len(tour) == 17
    script = "set -eu\n" + "".join(f"{command}\necho '{END_OF_STEP}'\n" for command, _ in tour)
    done = subprocess.run(
        ["sh"],  # noqa: S607 - the shell of whoever reads the README
        input=script.replace(ADDRESS, service.base_url),
        env=CLEAN_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    outputs = done.stdout.split(END_OF_STEP)[:-1]
    assert len(outputs) == len(tour)
    for (command, expected), output in zip(tour, outputs, strict=True):
        assert expected in output, (command, output)


def test_every_setting_is_in_the_readme() -> None:
    table = README.split("## Settings")[1].split("\n## ")[0]
    missing = [name for name in Settings.model_fields if f"`{name.upper()}`" not in table]

    assert missing == []
