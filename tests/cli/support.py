"""Commands run in the process of the tests, from their arguments to their exit code."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

from app.cli import main
from tests.support import CLEAN_ENVIRONMENT, SERVICE_DEFAULTS, as_environment

Run = Callable[..., "subprocess.CompletedProcess[str]"]
AddUsers = Callable[..., None]


def taskflow(
    *arguments: str, text: str = "", **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command in this process, from its arguments to its exit code."""
    told = {"ENVIRONMENT": "testing", "COLUMNS": "200"} | as_environment(SERVICE_DEFAULTS)
    environment = CLEAN_ENVIRONMENT | told | environment
    output, errors, code = io.TextIOWrapper(io.BytesIO(), "utf-8", newline=""), io.StringIO(), 0
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        # The logs of the tests go on as they are.
        mock.patch("app.cli.common.configure_logging"),
        mock.patch.object(sys, "argv", ["taskflow", *arguments]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8")),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main()
        except SystemExit as end:
            if isinstance(end.code, str):
                errors.write(end.code + "\n")
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    output.seek(0)
    return subprocess.CompletedProcess(arguments, code, output.read(), errors.getvalue())
