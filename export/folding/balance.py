"""Which BatchNormalizations to fold and which gauge to give their streams, so that a low precision loses little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.folding.candidates import Candidate
from export.folding.gauge import Channels, Indices
from export.folding.guard import Guard
from export.folding.nodes import Vector


@dataclass(frozen=True)
class Reading:
    """One BatchNormalization's view of its stream, per channel.

    `reach` is the largest value that the stream is expected to have here, shifted as this one needs it; `spread` the
    same if it is left in place. `sensitivity`: how much of the activation's largest value a unit of the stream makes.
    """

    candidate: Candidate
    classes: Indices
    reach: Vector
    spread: Vector
    sensitivity: Vector


@dataclass(frozen=True)
class Balance:
    """`gauge` is per class of channels; `left` maps the names of what should not be folded to the reason."""

    gauge: Vector
    left: dict[str, str]


def balance(candidates: Sequence[Candidate], channels: Channels, guard: Guard | None) -> Balance:
    """Leave the worst in place until no activation suffers more from the stream's rounding than the guard allows.

    Where a tensor has one scale, as in int8, the gauge makes channels equal; else it has signs alone.
    """
    readings = [reading(candidate, channels) for candidate in candidates if candidate.value in channels.of]
    sensitivities = from_here_on(readings, len(channels.fixed))
    left: dict[str, str] = {}
    while True:
        reaches = [each.spread if each.candidate.name in left else each.reach for each in readings]
        gauge = gauge_for(readings, reaches, channels)
        if guard is None or not guard.uniform:
            gauge = np.sign(gauge)
        if guard is None:
            return Balance(gauge, left)
        culprit, channel, steps = worst(readings, reaches, gauge, sensitivities, channels, guard)
        if culprit is None or steps <= guard.most_steps:
            return Balance(gauge, left)
        own = culprit.classes == channel
        if culprit.candidate.name in left or (culprit.reach[own] <= culprit.spread[own]).all():
            for each, sensitivity in zip(readings, sensitivities, strict=True):
                sensitivity[each.classes == channel] = 0  # the stream itself reaches as far: nothing would be gained
            continue
        left[culprit.candidate.name] = (
            f"shifted by |b / a| of up to {culprit.candidate.largest_shift:.3g}, the stream would be rounded by "
            f"{steps:.0f} steps of what else reads it; accepted are {guard.most_steps:g}"
        )


def reading(candidate: Candidate, channels: Channels) -> Reading:
    affine, expected = candidate.affine, candidate.expected
    active = affine.scale != 0
    scale = np.where(active, np.abs(affine.scale), 1)
    reach = np.where(active, (np.abs(expected.centre) + expected.swing) / scale, expected.spread)
    sensitivity = np.abs(affine.scale) / max(expected.largest, np.finfo(np.float64).tiny)
    return Reading(candidate, channels.of[candidate.value], reach, expected.spread, sensitivity)


def from_here_on(readings: Sequence[Reading], classes: int) -> list[Vector]:
    """For each reading and channel, the largest sensitivity of those that read the stream here or later."""
    largest = np.zeros(classes)
    found = []
    for each in reversed(readings):
        np.maximum.at(largest, each.classes, each.sensitivity)
        found.append(largest[each.classes])
    return found[::-1]


def gauge_for(readings: Sequence[Reading], reaches: Sequence[Vector], channels: Channels) -> Vector:
    """Every channel of a stream reaches as far as any other; its sign is that of most scales that read it."""
    positive = channels.positive.copy()
    largest, signs = np.zeros(len(channels.fixed)), np.zeros(len(channels.fixed))
    for each, reach in zip(readings, reaches, strict=True):
        np.maximum.at(largest, each.classes, reach)
        np.add.at(signs, each.classes, np.sign(each.candidate.affine.scale))
        positive[each.classes] |= each.candidate.consumers.signed
    gauge = np.where(largest > 0, 1 / np.where(largest > 0, largest, 1), 1)
    gauge = np.where((signs < 0) & ~positive, -gauge, gauge)
    return np.where(channels.fixed, 1, gauge)


def worst(
    readings: Sequence[Reading],
    reaches: Sequence[Vector],
    gauge: Vector,
    sensitivities: Sequence[Vector],
    channels: Channels,
    guard: Guard,
) -> tuple[Reading | None, int, float]:
    """The reading to blame for the largest rounding, in which class, and how many steps of an activation that is."""
    culprit, where, most = None, 0, 0.0
    largest = np.zeros(len(gauge))
    owner = np.zeros(len(gauge), int)
    for index, (each, reach) in enumerate(zip(readings, reaches, strict=True)):
        further = reach > largest[each.classes]
        largest[each.classes[further]] = reach[further]
        owner[each.classes[further]] = index
    for index, (each, reach, sensitivity) in enumerate(zip(readings, reaches, sensitivities, strict=True)):
        own = np.abs(gauge[each.classes])
        rounding = (own * reach).max() / own if guard.uniform else reach
        steps = rounding * sensitivity
        channel = int(steps.argmax())
        if steps[channel] > most:
            most = float(steps[channel])
            where = int(each.classes[channel])
            gauged = guard.uniform and not channels.fixed[where]
            culprit = readings[owner[where]] if gauged else readings[index]
    return culprit, where, most
