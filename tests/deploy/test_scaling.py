"""docs/scaling.md: its table is the arithmetic that it states, on what the serving benchmark measured."""

from __future__ import annotations

import json
import math
import re

from tests.conftest import ROOT

SCALING = (ROOT / "docs" / "scaling.md").read_text()
MEASURED = ROOT / "docs" / "measurements"
UTILIZATION, CORES_A_POD, PODS_A_NODE = 0.6, 2, 15


def rows(text: str, columns: int) -> list[list[str]]:
    found = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return [row for row in found if len(row) == columns and row[0].startswith("ResNet-")]


def number(text: str) -> float:
    return float(re.findall(r"[\d,.]+", text)[0].replace(",", ""))


def test_what_is_called_measured_was_measured() -> None:
    measured = rows(SCALING, 5)
    assert [row[0] for row in measured] == ["ResNet-20", "ResNet-50"]
    for row, network in zip(measured, ("resnet20", "resnet50"), strict=True):
        (cell,) = json.loads((MEASURED / f"serving-{network}-fp32-16-xeon.json").read_text())["cells"]
        ours = cell["lanes"]["ours"]
        for text, figure in zip(row[1:4], ("throughput_rps", "cpu_us", "rss_mb"), strict=True):
            assert number(text) == round(ours[figure], 1 if ours[figure] < 100 else None), (network, figure)


def test_the_worked_table_is_its_formulas() -> None:
    costs = {row[0]: [number(cell) for cell in row[2:]] for row in rows(SCALING, 5)}
    worked = rows(SCALING, 7)
    assert len(worked) == 10
    for network, *cells in worked:
        cpu_us, memory_mb, kilobytes = costs[network]
        rate = number(cells[0])
        cores = rate * cpu_us / 1e6
        pods = max(2, math.ceil(cores / UTILIZATION / CORES_A_POD) + 1)
        expected = [cores, pods, pods * memory_mb / 1e3, rate * kilobytes * 8e3 / 1e9, math.ceil(pods / PODS_A_NODE)]
        for cell, value in zip(cells[1:], expected, strict=True):
            assert abs(number(cell) - value) <= 0.05 + 1e-9, (network, cells)
