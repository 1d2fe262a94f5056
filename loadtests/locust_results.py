"""What a Locust test leaves: results as every load test writes them, and a table of percentiles."""

from __future__ import annotations

import argparse
import platform
import time
from importlib.metadata import version

from loadtests.gathering import Gathering
from loadtests.load import invalid, replaced
from loadtests.machine import machine
from loadtests.recording import Recording, Stage
from loadtests.results import Results, Side, Target, Turn

PERCENTILES = (50, 90, 99, 99.9, 100)


def results_of(gathering: Gathering, options: argparse.Namespace, target: Target, *, is_open: bool) -> Results:
    """One turn of the one variant; requests of no warm-up are left out, as Locust has none."""
    limit = next(iter(gathering.limits.values()), "")
    turn = Turn(
        0, 0, Side.A, gathering.lasted_s(), gathering.recording,
        gathering.incomplete(is_open) or replaced(gathering.recording, target),
        invalid(gathering.recording, limit, options.max_lag_ms),
    )  # fmt: skip
    workload = {"schedule": options.schedule, "seed": options.seed} if is_open else {"users": options.num_users}
    conditions = {
        "targets": {Side.A: {"host": target.host, "variant": target.variant}},
        "workload": {"kind": "open" if is_open else "closed", **workload},
        "payloads": {
            "images": options.images,
            "image_size": options.image_size,
            "image_bytes": options.image_bytes,
            "tensors": options.tags == ["tensors"],
        },
        "processes": len(gathering.senders),
        "patience_s": options.patience,
        "machine": f"{machine()}; client and service may share it",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("locust", "gevent", "httptools", "hdrhistogram")},
        "finished": time.strftime("%Y-%m-%d %H:%M:%S%z"),
    }
    return Results(conditions, [turn])


def as_text(recording: Recording) -> str:
    """Milliseconds by stage, to the digits that the histograms keep."""
    lines = [f"{'ms':<8}" + "".join(f"{f'p{point:g}' if point < 100 else 'most':>10}" for point in PERCENTILES)]
    for stage in Stage:
        found = [recording.percentile_ms(stage, point) for point in PERCENTILES]
        if found[0] is not None:
            lines.append(f"{stage:<8}" + "".join(f"{value:>10.3f}" for value in found if value is not None))
    lines.append(f"answered {recording.answered}, failed {recording.failed}")
    lines += [f"  {count} x {reason}" for reason, count in recording.failures.most_common()]
    return "\n".join(lines)
