"""What the command lines of the load tests share."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tqdm import tqdm


def positive(kind: type[int] | type[float]) -> Any:
    """How argparse reads a number above 0."""

    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not positive")
        return value

    parse.__name__ = f"positive {kind.__name__}"  # argparse's word for it
    return parse


def share(*, with_ends: bool) -> Any:
    """How argparse reads a number from 0 to 1, or between them."""

    def parse(text: str) -> float:
        value = float(text)
        if not (0 <= value <= 1 if with_ends else 0 < value < 1):
            expected = "from 0 to 1" if with_ends else "between 0 and 1"
            raise argparse.ArgumentTypeError(f"found {text}, expected a share {expected}")
        return value

    parse.__name__ = "share"  # argparse's word for it
    return parse


def progress_bar(total: int, description: str, unit: str) -> tqdm[Any]:
    """On standard error; a log file needs fewer lines than a terminal."""
    interval_s = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, desc=description, unit=unit, mininterval=interval_s)
