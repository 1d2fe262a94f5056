"""Command line of the server whose delays are known."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from functools import partial
from math import inf

import uvloop

from loadtests import known_delays
from loadtests.command_line import positive
from loadtests.known_delays.connection import Connection
from loadtests.known_delays.delays import EXPECTED, Delay, DelayError, read_delay
from loadtests.known_delays.service import Service, Stall, Variant

BACKLOG = 4096  # after a stall every client connects anew, all at once


def main(arguments: list[str] | None = None) -> int:
    command = parser()
    options = command.parse_args(arguments)
    factors = dict(options.factor)
    if unknown := sorted(factors.keys() - set(options.variants)):
        command.error(f"--factor {unknown[0]}: expected one of the variants {', '.join(options.variants)}")
    variants = [
        Variant(name, factors.get(name, 1.0), random.Random(f"{options.seed}, {name}"))  # noqa: S311  no secret
        for name in options.variants
    ]
    service = Service(
        variants, options.delay, fail=options.fail, capacity=options.capacity, stall=options.stall,
        replaced_after=options.replaced_after, seed=options.seed,
    )  # fmt: skip
    try:
        uvloop.run(serve(service, options.port))
    except OSError as error:
        print(f"error: port {options.port}: {error}; choose another with --port", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


async def serve(service: Service, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(partial(Connection, service), "127.0.0.1", port, backlog=BACKLOG)
    print(f"answers at http://127.0.0.1:{port}", file=sys.stderr)
    await server.serve_forever()


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m loadtests.known_delays",
        description=known_delays.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--port", type=positive(int), default=3000)
    top.add_argument("--variants", type=names, default=["a", "b"], metavar="NAME,...")
    top.add_argument("--delay", type=delay, default=read_delay("constant:20"), help=f"{EXPECTED} (constant:20)")
    top.add_argument(
        "--factor", type=factor, action="append", default=[], metavar="VARIANT=FACTOR", help="times its delays"
    )
    top.add_argument("--fail", type=probability, default=0.0, metavar="PROBABILITY", help="of answering 503")
    top.add_argument("--capacity", type=positive(int), metavar="N", help="serve so many at a time, the others wait")
    top.add_argument("--stall", type=stall, metavar="AT:SECONDS", help="once, AT seconds after the first request")
    top.add_argument(
        "--replaced-after", type=positive(int), metavar="N", help="after N answers another version gives them"
    )
    top.add_argument("--seed", type=int, default=0, help="of delays and failures")
    return top


def delay(text: str) -> Delay:
    try:
        return read_delay(text)
    except DelayError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def names(text: str) -> list[str]:
    found = text.split(",")
    if not all(found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r}: expected different names with commas between them")
    return found


def factor(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    return name, within(value, 0, inf)


def probability(text: str) -> float:
    return within(text, 0, 1)


def stall(text: str) -> Stall:
    after_s, _, seconds = text.partition(":")
    return Stall(within(after_s, 0, inf), within(seconds, 0, inf))


def within(text: str, least: float, most: float) -> float:
    value = float(text)
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text} is not between {least:g} and {most:g}")
    return value


if __name__ == "__main__":
    sys.exit(main())
