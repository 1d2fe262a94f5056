"""A cell as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from loadtests.ratios import as_dict
from loadtests.serving_bench.judge import Figure, cpu, failure_rates, judge, medians, ours_over, p99, throughput
from loadtests.serving_bench.plan import Cell, Lane
from loadtests.serving_bench.turns import Turn

FIGURES: dict[str, Figure] = {
    "throughput_rps": throughput,
    "latency_p50_ms": lambda turn: turn.p50_us / 1e3,
    "latency_p99_ms": lambda turn: turn.p99_us / 1e3,
    "cpu_us": cpu,
    "rss_mb": lambda turn: turn.rss_mb,
}
RATIOS: dict[str, Figure] = {"throughput": throughput, "p99": p99, "cpu": cpu}
WIDTH = 24


def summary(cell: Cell, turns: Sequence[Turn], not_measured: Mapping[str, str]) -> dict[str, Any]:
    """Medians over rounds, and the ratios of ours over every lane, paired by round."""
    found = {name: medians(turns, figure) for name, figure in FIGURES.items()}
    failing, others = failure_rates(turns), medians(turns, lambda turn: turn.others_cpu_s / turn.seconds)
    lanes = [lane for lane in Lane if lane in failing]
    return {
        "cell": str(cell),
        "rounds": len({turn.round for turn in turns}),
        "starts": len({turn.start for turn in turns}),
        "lanes": {
            lane: {name: values[lane] for name, values in found.items()}
            | {"failure_rate": failing[lane], "failures": failures(turns, lane), "others_cpu_share": others[lane]}
            for lane in lanes
        },
        "ours_over": {
            lane: {name: as_dict(ours_over(turns, lane, figure)) for name, figure in RATIOS.items()}
            for lane in lanes
            if lane is not Lane.OURS
        },
        "measures": [asdict(measure) for measure in judge(cell, turns)],
        "not_measured": dict(not_measured),
    }


def failures(turns: Sequence[Turn], lane: Lane) -> dict[str, int]:
    total: dict[str, int] = {}
    for turn in turns:
        for kind, count in turn.failures.items() if turn.lane is lane else ():
            total[kind] = total.get(kind, 0) + count
    return total


def as_text(result: Mapping[str, Any]) -> str:
    head = f"{'':16}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU us/req':>12}{'RSS MB':>8}{'failed':>8}"
    head += "".join(f"{f'ours over it, {name}':>{WIDTH + 2}}" for name in RATIOS)
    lines = [f"{result['cell']}, {result['rounds']} rounds in {result['starts']} starts", head]
    for lane, each in result["lanes"].items():
        line = f"{lane:16}{each['throughput_rps']:>9.1f}{each['latency_p50_ms']:>9.2f}{each['latency_p99_ms']:>9.2f}"
        line += f"{each['cpu_us']:>12.0f}{each['rss_mb']:>8.0f}{sum(each['failures'].values()):>8}"
        ratios = result["ours_over"].get(lane, {})
        lines.append(line + "".join(f"{interval(ratio):>{WIDTH + 2}}" for ratio in ratios.values()))
    lines += [f"{lane:16} not measured: {reason}" for lane, reason in result["not_measured"].items()]
    lines += [f"  {each['claim']}: {interval(each['value'])} {each['verdict']}" for each in result["measures"]]
    return "\n".join(line.rstrip() for line in lines)


def interval(ratio: Mapping[str, float] | None) -> str:
    return f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio else "-"
