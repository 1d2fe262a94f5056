"""How accurate a served variant is, as its service's `/variants` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Top-1, a share, on `n` images of `data`. `is_served` tells what was measured: the engine or graph that is
    served, or the checkpoint it was exported from."""

    top1: float
    n: int
    data: str
    of: str
    is_served: bool

    def __str__(self) -> str:
        return f"{self.of}, on {self.n:,} images of {self.data}"


def accuracies(target: Mapping[str, Any]) -> Sequence[Accuracy] | str:
    """Of one of `conditions["targets"]`, the closest to what is served first; or why there is none."""
    name, served = target["variant"], target["served"]
    if not served.get("trained", True):
        return f"{name} is untrained, its accuracy means nothing"
    sources = (
        ("of the engine", (served.get("engine") or {}).get("accuracy"), True),
        ("of the exported graph", served.get("accuracy"), True),
        ("training_accuracy, of the checkpoint", served.get("training_accuracy"), False),
    )
    found = [
        Accuracy(accuracy["top1"], accuracy["n"], accuracy["data"], of, is_served)
        for of, accuracy, is_served in sources
        if accuracy
    ]
    return found or f"{name} has neither accuracy nor training_accuracy in /variants"


def comparable(first: Sequence[Accuracy], second: Sequence[Accuracy]) -> tuple[Accuracy, Accuracy] | str:
    """The closest to what is served that both have of the same images; or why there is none."""
    for pair in product(first, second):
        if len({(each.n, each.data, each.is_served) for each in pair}) == 1:
            return pair
    return f"the accuracies are of different things: {first[0]}; {second[0]}"
