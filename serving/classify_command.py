"""`python -m serving classify`: photographs -> what a running service sees in them, as tables or as JSON."""

from __future__ import annotations

import argparse
import io
import json
import mimetypes
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from models.pixels import ImageError, read_pixels
from models.spec import Preprocessing
from serving.client import Client, ClientError, RefusedError
from serving.predictions import most_probable

AT_ONCE = 4
ALL, SOME, NONE, INTERRUPTED = 0, 1, 2, 130  # exit statuses
BAR = 24  # characters of a probability of 1

Answer = Mapping[str, Any]  # a Classification; without timings where inference alone was asked for
Ask = Callable[[bytes], Answer]


class InputError(ValueError):
    """There is nothing to send, or nobody to send it to."""


@dataclass(frozen=True, slots=True)
class Seen:
    """`problem` says why there is none."""

    path: Path
    answer: Answer | None
    problem: str = ""


def add(commands: Any) -> None:
    command = commands.add_parser(
        "classify",
        help="ask a running service what it sees in photographs",
        description=__doc__,
        epilog="Exit status: 0 if all were classified, 1 if some, 2 if none was. PREFLIGHT_API_KEY may hold a key.",
    )
    command.set_defaults(run=run)
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="files, or folders of images")
    command.add_argument("--url", default="http://localhost:3000", help="of the service (default: %(default)s)")
    command.add_argument("--variant", help="who is asked (default: whom the service chooses)")
    command.add_argument("--top-k", type=positive(int), default=5, help="classes of each image (default: %(default)s)")
    command.add_argument(
        "--timeout", type=positive(float), default=30.0, metavar="SECONDS", help="for each image (default: %(default)s)"
    )
    command.add_argument("--json", action="store_true", help="an object a line")
    command.add_argument(
        "--tensors",
        action="store_true",
        help="decode here and send pixels by the Open Inference Protocol; needs --variant and, where keys are asked "
        "for, a key that has the scope observe beside predict: how to decode is read from /variants",
    )


def positive(kind: type[int] | type[float]) -> Any:
    """How argparse reads a finite number above 0."""

    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"found {text}, expected a number above 0")
        return value

    parse.__name__ = f"positive {kind.__name__}"  # argparse's word for it
    return parse


def run(options: argparse.Namespace) -> int:
    seen: list[Seen] = []
    try:
        paths = list(images_of(options.images))
        with Client(options.url, timeout_s=options.timeout) as client:
            ask = by_tensors(client, options.variant, options.top_k) if options.tensors else by_bytes(client, options)
            seen.extend(show_all(paths, ask, as_json=options.json))  # as they come: an error leaves those before it
    except (InputError, ClientError) as error:
        print(f"error: {error}", file=sys.stderr)
        return SOME if any(each.answer is not None for each in seen) else NONE
    except KeyboardInterrupt:
        return INTERRUPTED
    classified = sum(each.answer is not None for each in seen)
    return ALL if classified == len(seen) else SOME if classified else NONE


def images_of(given: Sequence[Path]) -> Iterator[Path]:
    """Files as they are named, and in folders what is named like an image. Raises InputError."""
    for path in given:
        if path.is_dir():
            found = sorted(
                each for each in path.iterdir() if (mimetypes.guess_type(each)[0] or "").startswith("image/")
            )
            if not found:
                raise InputError(f"{path}: no image in this folder")
            yield from found
        elif path.exists():
            yield path
        else:
            raise InputError(f"{path}: no such file or folder")


def by_bytes(client: Client, options: argparse.Namespace) -> Ask:
    return lambda encoded: client.classify(encoded, options.variant, options.top_k)


def by_tensors(client: Client, variant: str | None, top_k: int) -> Ask:
    """What the service does, done here but for the inference. Raises InputError where the variant is not served."""
    served = {each["variant"]: each for each in client.variants()}
    if variant not in served:
        raise InputError(f"--tensors: --variant {variant or 'is missing'}; served there: {', '.join(served)}")
    entry = served[variant]
    preprocessing = Preprocessing(**entry["preprocessing"])

    def ask(encoded: bytes) -> Answer:
        pixels = read_pixels(io.BytesIO(encoded), preprocessing)
        logits = client.infer(pixels[np.newaxis], entry["variant"])
        return {key: entry[key] for key in ("variant", "version", "trained")} | {
            "predictions": most_probable(logits[0], entry["labels"], top_k)
        }

    return ask


def show_all(paths: Sequence[Path], ask: Ask, *, as_json: bool) -> Iterator[Seen]:
    """Every answer is shown as it comes, in the order of the images, and passed on."""
    console, errors = Console(), Console(stderr=True)
    with (
        ThreadPoolExecutor(AT_ONCE) as pool,
        Progress(console=errors, transient=True, disable=len(paths) == 1) as progress,
    ):
        for each in progress.track(pool.map(lambda path: look(path, ask), paths), total=len(paths), description=""):
            if as_json:
                console.out(json.dumps(as_dict(each)), highlight=False)  # which ends quietly if nobody reads on
            elif each.answer is None:
                errors.print(f"[bold]{escape(str(each.path))}[/]: {escape(each.problem)}", soft_wrap=True)
            else:
                console.print(table(each.path, each.answer))
            yield each


def look(path: Path, ask: Ask) -> Seen:
    """Raises UnreachableError: then the others need not be tried."""
    try:
        return Seen(path, ask(path.read_bytes()))
    except (RefusedError, ImageError) as error:
        return Seen(path, None, str(error))
    except OSError as error:
        return Seen(path, None, error.strerror or str(error))


def as_dict(seen: Seen) -> dict[str, Any]:
    found = seen.answer if seen.answer is not None else {"problem": seen.problem}
    return {"image": str(seen.path), **found}


def table(path: Path, answer: Answer) -> Table:
    timings = ", ".join(f"{stage} {spent:.2f}" for stage, spent in answer.get("timings_ms", {}).items())
    shown = Table(
        title=f"{escape(path.name)}  [dim]{answer['variant']}{'' if answer['trained'] else ', untrained'}[/]",
        caption=f"{timings} ms" if timings else None,
        show_header=False,
        title_justify="left",
        caption_justify="left",
        box=None,
    )
    for prediction in answer["predictions"]:
        probability = prediction["probability"]
        shown.add_row(escape(prediction["label"]), f"{probability:7.1%}", "\u2588" * round(probability * BAR))
    return shown
