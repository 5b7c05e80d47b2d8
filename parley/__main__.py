"""The program `parley`. Ctrl-C ends it without a traceback, also while its modules load."""

import signal


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from parley.cli.main import main as run_command  # noqa: PLC0415

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_command()


if __name__ == "__main__":
    main()
