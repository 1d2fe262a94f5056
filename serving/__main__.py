"""Command line of `serving`: classify photographs by a running service, make an API key, list settings and routes.

The service itself is `bentoml serve serving.service:Preflight`.
"""

from __future__ import annotations

import argparse
import sys

from serving import classify_command, http_reference
from serving.client import Client, ClientError
from serving.config import reference
from serving.keys import Scope, new_key


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    return int(options.run(options))


def settings(_: argparse.Namespace) -> int:
    print(reference())
    return 0


def routes(options: argparse.Namespace) -> int:
    try:
        with Client(options.url) as client:
            print(http_reference.markdown(client.description()), end="")
    except ClientError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def key(options: argparse.Namespace) -> int:
    key, line = new_key(options.scope, options.name)
    print(key)
    print(
        f"the key stands above, once; its line for the file that SERVING_API_KEYS_FILE names:\n{line}", file=sys.stderr
    )
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    classify_command.add(commands)
    command = commands.add_parser("settings", help="print every environment variable that the service reads")
    command.set_defaults(run=settings)
    command = commands.add_parser("reference", help="print what a running service answers, route by route, in Markdown")
    command.set_defaults(run=routes)
    command.add_argument("--url", default="http://localhost:3000", help="of the service")
    command = commands.add_parser("key", help="make an API key; prints it, and the line that lets it in")
    command.set_defaults(run=key)
    command.add_argument("--scope", type=Scope, choices=list(Scope), default=Scope.PREDICT, help="default: predict")
    command.add_argument("--name", type=word, default="", help="whose it is, without spaces")
    return top


def word(text: str) -> str:
    if len(text.split()) > 1 or text != text.strip():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected no spaces")
    return text


if __name__ == "__main__":
    sys.exit(main())
