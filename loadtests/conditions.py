"""Under what a run was made, and whether two runs were made under the same."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadtests.machine import machine
from loadtests.metrics import LEVEL, PRIMARY
from loadtests.results import Results, Side, Target
from loadtests.schedule import Arrivals, Schedule

PACKAGES = ("locust", "gevent", "geventhttpclient", "hdrhistogram", "numpy", "scipy")
MAY_DIFFER = {
    "targets", "interleaved", "rounds", "primary", "level", "commit", "load_average", "begun", "finished", "incomplete",
}  # fmt: skip
DRIFT = "The two runs were not interleaved, so whatever changed on the machine between them counts as a difference."


class ConditionsError(ValueError):
    """What is to be compared was not measured, or cannot be, under the same conditions."""


def conditions(
    targets: Sequence[tuple[Target, Mapping[str, Any]]],
    load: Schedule | int,
    bodies: Sequence[bytes],
    sent: str,
    *,
    seed: int,
    turn_seconds: float,
    warm_up_seconds: float,
    rounds: int,
    primary: str = PRIMARY,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Fit for JSON, as the run begins; `finished` completes them.

    `targets` are side A and, in a comparison, B, each with what `/variants` says of it. `load` is a schedule, or the
    users of a closed workload. `sent` says what the bodies are, such as "tensors".
    """
    return {
        "targets": {
            side: {"host": target.host, "variant": target.variant, "served": dict(served)}
            for side, (target, served) in zip(Side, targets, strict=False)
        },
        "interleaved": len(targets) > 1,
        **workload(load),
        "seed": seed,
        "payload": {
            "sent": sent,
            "count": len(bodies),
            "bytes": [len(body) for body in bodies],
            "sha256": digest(bodies),
        },
        "turn_seconds": turn_seconds,
        "warm_up_seconds": warm_up_seconds,
        "rounds": rounds,
        "primary": primary,
        "level": level,
        "machine": machine(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "commit": commit(),
        "load_average": [load_average()],
        "begun": now(),
        "finished": None,
        "incomplete": "",
    }


def finished(begun: Mapping[str, Any], incomplete: str = "") -> dict[str, Any]:
    """The conditions as the run ends; `incomplete` says why it did so early."""
    ending = {"finished": now(), "load_average": [*begun["load_average"], load_average()], "incomplete": incomplete}
    return {**begun, **ending}


def workload(load: Schedule | int) -> dict[str, Any]:
    if isinstance(load, int):
        return {"workload": "closed", "users": load}
    found = {"workload": "open", "schedule": load.text}
    if load.kind is Arrivals.TRACE:  # whose text names only a file
        found["trace_sha256"] = digest([repr(load.times_s).encode()])
    return found


def digest(bodies: Sequence[bytes]) -> str:
    """Of the bodies and where each ends."""
    found = hashlib.sha256()
    for body in bodies:
        found.update(len(body).to_bytes(8, "big") + body)
    return found.hexdigest()


def commit() -> str | None:
    """Of this checkout, `-dirty` where it has changes; None where it is none."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],  # noqa: S607
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def load_average() -> float:
    """Of the last minute."""
    return round(os.getloadavg()[0], 2)


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S%z")


def input_shape(served: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
    """Of one image's tensor, [1, crop, crop, 3], by what `/variants` says of each variant.

    Raises ConditionsError where they take different ones.
    """
    crops = {name: variant["preprocessing"]["crop"] for name, variant in served.items()}
    if len(set(crops.values())) > 1:
        sizes = ", ".join(f"{name} {crop} x {crop} pixels" for name, crop in crops.items())
        raise ConditionsError(f"the same tensors do not fit both variants ({sizes}); send images: leave out --tensors")
    crop = next(iter(crops.values()))
    return (1, crop, crop, 3)


def refuse_different(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Who is compared, and when, may differ, by commit too; raises ConditionsError for all that does besides."""
    ours, theirs = (flat(comparable(each)) for each in (first, second))
    different = [
        f"{name}: {ours.get(name, 'absent')} and {theirs.get(name, 'absent')}"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]
    if different:
        raise ConditionsError(
            f"the runs were made under different conditions: {'; '.join(different)}; run both again under the same, "
            "or compare the variants in one run"
        )


def comparable(found: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions that must be equal, the hosts' names among them; another port is another build at most."""
    hosts = sorted({str(urlsplit(target["host"]).hostname) for target in found["targets"].values()})
    return {"hosts": hosts} | {name: value for name, value in found.items() if name not in MAY_DIFFER}


def flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """`packages.numpy` for what is nested, so that only what differs is named."""
    entries: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, Mapping):
            entries |= {f"{name}.{inner}": each for inner, each in flat(value).items()}
        else:
            entries[name] = value
    return entries


def of_two_runs(first: Results, second: Results) -> Results:
    """Two runs of one variant each as the sides of a comparison that was not interleaved.

    Their rounds are numbered on, so that none has both sides: they are not pairs. Each run's own conditions are under
    `runs`. Raises ConditionsError.
    """
    for name, results in (("first", first), ("second", second)):
        if any(turn.side is Side.B for turn in results.turns):
            raise ConditionsError(f"the {name} file is a comparison of its own, expected a run of one variant")
    refuse_different(first.conditions, second.conditions)
    after = max((turn.round for turn in first.turns), default=-1) + 1
    turns = [*first.turns, *(replace(turn, side=Side.B, round=after + turn.round) for turn in second.turns)]
    runs = [first.conditions, second.conditions]
    found = {
        **{name: value for name, value in first.conditions.items() if name not in MAY_DIFFER},
        "targets": {side: run["targets"][Side.A] for side, run in zip(Side, runs, strict=True)},
        "interleaved": False,
        "primary": first.conditions["primary"],
        "level": first.conditions["level"],
        "incomplete": next((run["incomplete"] for run in runs if run["incomplete"]), ""),
        "runs": runs,
    }
    return Results(found, turns)
