"""`--precision auto`: the fastest precision that passes its gate, both measured here."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from export.artifact import ENGINE_FILE, GRAPH_FILE, ArtifactError, Precision, Runtime
from export.cuda import UnavailableError
from export.job import Job, say
from export.make import Made, make, open_engine
from export.quantize import PrecisionError
from export.rounds import interleaved, seconds_of
from export.to_engine import EngineError
from export.verify import ParityError, Run, open_graph
from models.paired import median_interval

CANDIDATES = {  # from the most exact; on CPUs float16 is computed in float32, with conversions
    Runtime.ONNXRUNTIME: (Precision.FP32, Precision.INT8),
    Runtime.TENSORRT: tuple(Precision),
    Runtime.TENSORRT_RTX: tuple(Precision),
}
ROUNDS = 40
TURN_S = 0.01


def fastest(job: Job, converted: onnx.ModelProto, scratch: Path) -> Made:
    """Make every candidate, leave out those that lose too much, time the others in one interleaved run, one image each.

    A lower precision is taken where the 95 % interval of its time over that of the best so far lies below 1.

    Raises:
        PrecisionError, ParityError: even fp32 does not pass.
    """
    made: dict[Precision, Made] = {}
    for precision in CANDIDATES[job.settings.runtime]:
        try:
            made[precision] = make(job, converted, precision, scratch)
        except (ArtifactError, EngineError, PrecisionError, ParityError) as error:
            if precision is Precision.FP32:
                raise
            say(f"{job.variant}: {precision} is passed over: {error}")
    with ExitStack() as stack:
        runs = {precision: opened(job, each, stack) for precision, each in made.items()}
        timed = {precision: partial(seconds_of, run, job.images[:1]) for precision, run in runs.items()}
        seconds = interleaved(timed, ROUNDS, TURN_S, "timing")
    best, *others = made
    for precision in others:
        ratio = median_interval(seconds[precision] / seconds[best])
        say(
            f"{job.variant}: {precision} / {best} in time {ratio.estimate:.3f} [{ratio.low:.3f}, {ratio.high:.3f}], "
            f"{1e3 * np.median(seconds[precision]):.2f} / {1e3 * np.median(seconds[best]):.2f} ms an image"
        )
        best = precision if ratio.high < 1 else best
    say(f"{job.variant}: {best} is the fastest that passes")
    return made[best]


def opened(job: Job, made: Made, stack: ExitStack) -> Run:
    engine = made.manifest.engine
    if engine is None:
        return open_graph(made.folder / GRAPH_FILE)
    assert not isinstance(job.cuda, UnavailableError)
    content = (made.folder / ENGINE_FILE).read_bytes()
    return stack.enter_context(open_engine(content, engine, job.cuda, made.manifest)).run
