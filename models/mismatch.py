"""Why a checkpoint's weights do not fit a network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from models.spec import ModelSpec

Shapes = Mapping[str, tuple[int, ...]]
SHOWN = 4  # names of each kind; a wrong depth has hundreds


def mismatch(spec: ModelSpec, expected: Shapes, found: Shapes) -> str | None:
    """What is missing, surplus and misshapen, with the likely cause; None if all fits."""
    missing = sorted(expected.keys() - found.keys())
    surplus = sorted(found.keys() - expected.keys())
    both = sorted(expected.keys() & found.keys())
    misshapen = [name for name in both if expected[name] != found[name]]
    if not (missing or surplus or misshapen):
        return None
    lines = [f"the weights do not fit {spec.variant} with {spec.num_classes} classes and {spec.shortcut} shortcuts:"]
    lines += [f"  {len(missing)} missing: {few(missing)}"] if missing else []
    lines += [f"  {len(surplus)} surplus: {few(surplus)}"] if surplus else []
    shapes = (f"{name} {found[name]}, expected {expected[name]}" for name in misshapen)
    lines += [f"  {len(misshapen)} misshapen: {few(shapes)}"] if misshapen else []
    lines += [f"  likely: {likely_cause(expected, found, [*missing, *surplus, *misshapen])}"]
    return "\n".join(lines)


def likely_cause(expected: Shapes, found: Shapes, differing: list[str]) -> str:
    if all(name.startswith("fc.") for name in differing) and "fc.weight" in found:
        return f"another number of classes: the checkpoint's head has {found['fc.weight'][0]}"
    if not blocks(found):
        return f"other names: they begin with {beginnings(found)}; expected {beginnings(expected)}"
    if blocks(expected) != blocks(found):
        return f"another depth: blocks a stage are {blocks(found)}, expected {blocks(expected)}"
    if all(".downsample." in name for name in differing):
        return "another kind of shortcut: option A has no weights, a projection does"
    if ("norm.weight" in expected) != ("norm.weight" in found):
        found_ordering = "pre" if "norm.weight" in found else "post"
        return f"the other block ordering: the checkpoint looks like {found_ordering}-activation"
    return "another architecture, or one trained with other names"


def blocks(shapes: Iterable[str]) -> list[int]:
    """Blocks of each stage, read off the names."""
    places = {match.groups() for name in shapes if (match := re.match(r"layer(\d+)\.(\d+)\.", name))}
    return [sum(stage == each for each, _ in places) for stage in sorted({stage for stage, _ in places})]


def beginnings(names: Iterable[str]) -> str:
    return few(sorted({name.partition(".")[0] + "." for name in names}))


def few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (", ..." if len(listed) > SHOWN else "")
