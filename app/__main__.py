"""Where the command `taskflow` begins; `python -m app` does the same."""

import signal


def main() -> None:
    """Load the command line, which takes most of a second, and run it.

    Ctrl-C ends the process at once while modules load, as it ends programs that are not Python's,
    since there is nothing yet to clean up. Where the parent had SIGINT ignored, it stays ignored.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    from app.cli import main as run_command_line  # noqa: PLC0415 - it is what takes so long

    signal.signal(signal.SIGINT, handler)
    run_command_line()


if __name__ == "__main__":
    main()
