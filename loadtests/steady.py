"""An open workload at a steady rate, and what became of its requests as one line of JSON.

`python -m loadtests.steady http://preflight --rate 50 --seconds 60`, for who changes something meanwhile.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from loadtests.command_line import positive
from loadtests.load import Open, run_load
from loadtests.recording import Outcome
from loadtests.results import Target
from loadtests.scenario import Payload, payloads
from loadtests.schedule import poisson


def summary(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """`first_failure_s` and `last_failure_s` are when those that failed were due."""
    latencies_ms = [1e3 * (each.ended_s - each.due_s) for each in outcomes if not each.problem]
    failed = [each for each in outcomes if each.problem]
    return {
        "requests": len(outcomes),
        "failed": len(failed),
        "by": dict(Counter(each.problem for each in failed)),
        "first_failure_s": round(min(each.due_s for each in failed), 3) if failed else None,
        "last_failure_s": round(max(each.due_s for each in failed), 3) if failed else None,
        "latency_p50_ms": round(float(np.percentile(latencies_ms, 50)), 1) if latencies_ms else None,
        "latency_p99_ms": round(float(np.percentile(latencies_ms, 99)), 1) if latencies_ms else None,
    }


def whoever() -> list[Payload]:
    """Requests to the default route, which any variant may answer."""
    return [replace(payload, path="/classify", answered='"predictions":') for payload in payloads()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.steady", description=__doc__)
    parser.add_argument("host", help="URL of the service; who answers there is its own choice")
    parser.add_argument("--rate", type=positive(float), required=True, help="requests a second")
    parser.add_argument("--seconds", type=positive(float), required=True)
    options = parser.parse_args()
    outcomes: list[Outcome] = []
    workload = Open(poisson(options.rate), seed=0)
    target = Target(options.host.rstrip("/"), "whoever")
    load = run_load(target, workload, whoever(), seconds=options.seconds, warm_up_s=0.0, on_outcome=outcomes.append)
    print(json.dumps(summary(outcomes) | {"incomplete": load.incomplete}))


if __name__ == "__main__":
    main()
