"""Command line of `loadtests`: run, compare, find a capacity, report; time a service's start."""

from __future__ import annotations

import argparse
import signal
import sys

from loadtests.commands import capacity, compare, report, run, startup
from loadtests.local_service import ServiceError


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ServiceError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted; what was measured until then, if anything, is in the folder of --out; "
            "of a comparison python -m loadtests report OUT/results.json shows it",
            file=sys.stderr,
        )
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m loadtests", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for command in (run, compare, capacity, report, startup):
        command.add(commands)
    return top


def end(*_: object) -> None:
    """As Ctrl-C does, once: `timeout` sends SIGTERM twice, and the second would stop what is being written."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    sys.exit(main())
