"""Both block orderings at several depths and seeds, each run an ordinary `python -m models train` of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tqdm import tqdm

from models.recipe import Recipe
from models.spec import BlockOrdering, spec_for
from models.weights import CheckpointError, read_checkpoint

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class StudyRun:
    """One network to train: its place in the study."""

    depth: int
    ordering: BlockOrdering
    seed: int

    @property
    def variant(self) -> str:
        return f"resnet{self.depth}-{self.ordering}"


@dataclass(frozen=True, slots=True)
class Study:
    """One recipe for all runs; each has a folder of its own in `folder`, and its seed instead of the recipe's."""

    folder: Path
    data: Path
    depths: tuple[int, ...]
    seeds: tuple[int, ...]
    recipe: Recipe
    device: str

    def __post_init__(self) -> None:
        for depth in self.depths:
            spec_for(f"resnet{depth}-{BlockOrdering.POST_ACTIVATION}")

    @property
    def runs(self) -> list[StudyRun]:
        """Seed by seed, so that a study that was stopped early has every depth."""
        return [
            StudyRun(depth, ordering, seed)
            for seed in self.seeds
            for depth in self.depths
            for ordering in BlockOrdering
        ]

    def folder_of(self, run: StudyRun) -> Path:
        return self.folder / f"{run.variant}-seed{run.seed}"

    def log_of(self, run: StudyRun) -> Path:
        return self.folder_of(run) / f"{run.variant}.log.jsonl"

    def is_finished(self, run: StudyRun) -> bool:
        """Whether its checkpoint is there and was trained by this recipe; any other state is the trainer's to judge."""
        try:
            training = read_checkpoint(self.folder_of(run) / f"{run.variant}.safetensors").description.training
        except CheckpointError:
            return False
        expected = json.loads(json.dumps(asdict(replace(self.recipe, seed=run.seed))))
        return bool(training["recipe"] == expected)

    def command(self, run: StudyRun) -> list[str]:
        recipe = self.recipe
        options = {
            "data": self.data.resolve(), "out": self.folder_of(run).resolve(), "seed": run.seed, "device": self.device,
            "epochs": recipe.epochs, "batch-size": recipe.batch_size, "peak-lr": recipe.peak_lr,
            "weight-decay": recipe.weight_decay, "warmup-epochs": recipe.warmup_epochs,
            "crop-padding": recipe.crop_padding, "precision": recipe.precision,
        }  # fmt: skip
        words = [f"--{name}={value}" for name, value in options.items()]
        return [sys.executable, "-m", "models", "train", run.variant, *words]


def run_all(study: Study, jobs: int) -> list[StudyRun]:
    """Train what is not finished, `jobs` at a time in processes of their own; returns the runs that failed.

    What a run prints goes to `output.txt` in its folder.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}: expected at least 1")
    waiting = deque(run for run in study.runs if not study.is_finished(run))
    running: dict[subprocess.Popen[bytes], StudyRun] = {}
    failed: list[StudyRun] = []
    threads = max(1, (os.cpu_count() or 1) // jobs)
    total = len(study.runs) * study.recipe.epochs
    quiet = 1.0 if sys.stderr.isatty() else 60.0
    with tqdm(total=total, desc="study", unit="epoch", mininterval=quiet, initial=epochs_logged(study)) as progress:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.popleft()
                    running[start(study, run, threads)] = run
                time.sleep(0.5)
                for process in [process for process in running if process.poll() is not None]:
                    run = running.pop(process)
                    if process.returncode:
                        failed.append(run)
                        progress.write(f"{run.variant}, seed {run.seed}, failed: {last_line(study, run)}")
                progress.update(epochs_logged(study) - progress.n)
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
    return failed


def start(study: Study, run: StudyRun, threads: int) -> subprocess.Popen[bytes]:
    folder = study.folder_of(run)
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(study.command(run), cwd=ROOT, env=environment, stdout=output, stderr=output)


def epochs_logged(study: Study) -> int:
    return sum(len(log.read_text().splitlines()) for run in study.runs if (log := study.log_of(run)).exists())


def last_line(study: Study, run: StudyRun) -> str:
    lines = (study.folder_of(run) / "output.txt").read_text(errors="replace").splitlines()
    return f"{lines[-1] if lines else 'no word'} ({study.folder_of(run) / 'output.txt'})"
