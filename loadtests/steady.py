"""An open workload at a steady rate, and what became of its requests as one line of JSON.

`python -m loadtests.steady http://preflight/classify --rate 50 --seconds 60`, for who changes something meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Sequence

import numpy as np

from loadtests.command_line import positive
from loadtests.open_loop import Outcome, poisson, posts, run_open
from loadtests.scenario import payloads

PATIENCE_S = 10.0


def summary(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Failed is whatever was not answered by 200; `first_failure_s` and `last_failure_s` are when those were due."""
    latencies_ms = [1e3 * each.latency_s for each in outcomes if each.status == 200]
    failed = [each for each in outcomes if each.status != 200]
    return {
        "requests": len(outcomes),
        "failed": len(failed),
        "by": dict(Counter(each.problem or str(each.status) for each in failed)),
        "first_failure_s": round(min(each.due_s for each in failed), 3) if failed else None,
        "last_failure_s": round(max(each.due_s for each in failed), 3) if failed else None,
        "latency_p50_ms": round(float(np.percentile(latencies_ms, 50)), 1) if latencies_ms else None,
        "latency_p99_ms": round(float(np.percentile(latencies_ms, 99)), 1) if latencies_ms else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.steady", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--rate", type=positive(float), required=True, help="requests a second")
    parser.add_argument("--seconds", type=positive(float), required=True)
    options = parser.parse_args()
    requests = posts(options.url, [payload.body for payload in payloads(None)], int(1e3 * PATIENCE_S))
    due = poisson(options.rate, options.seconds, seed=0)
    print(json.dumps(summary(asyncio.run(run_open(options.url, requests, due, PATIENCE_S)))))


if __name__ == "__main__":
    main()
