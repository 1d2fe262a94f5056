"""Progress on standard error: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(steps: Iterable[Any] | None, description: str, unit: str, total: int | None = None) -> tqdm[Any]:
    """What is over before a line is due shows none."""
    interval_s = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(
        steps, desc=description, unit=unit, total=total, leave=False, mininterval=interval_s, delay=interval_s
    )  # fmt: skip
