"""Checkpoint -> ONNX -> folded -> lowered in precision -> engine -> verified -> artifact in BentoML's model store."""

from __future__ import annotations

import tempfile
from pathlib import Path

from export.calibration import write_calibration
from export.job import AUTO, ExportSettings, open_job, say
from export.make import make
from export.to_onnx import to_onnx
from models.choice import ModelChoice


def export(choice: ModelChoice, settings: ExportSettings) -> str:
    """Build, convert, fold, lower, verify, register; returns the tag.

    Nothing reaches the store unless all of it succeeded.
    """
    job = open_job(choice, settings)
    say(f"{job.variant}: converting to ONNX")
    converted = to_onnx(job.source.graph)
    with tempfile.TemporaryDirectory(prefix="preflight-export-") as name:
        scratch = Path(name)
        if settings.precision == AUTO:
            from export.precision_choice import fastest  # noqa: PLC0415  scipy's statistics take half a second

            made = fastest(job, converted, scratch)
        else:
            made = make(job, converted, settings.precision, scratch)
        if settings.save_calibration is not None and made.calibration is not None:
            write_calibration(settings.save_calibration, made.calibration)

        from export.store import register  # noqa: PLC0415  BentoML takes a second to import, errors come sooner

        return register(made.folder, made.manifest)
