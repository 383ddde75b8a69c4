"""A run that is there: its tables, its checkpoints as live models, evaluations of them, its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import nn

from inlearn.core import device as devices
from inlearn.core.configuration import digest
from inlearn.core.contract import Study
from inlearn.core.files import write_text
from inlearn.evaluation.evaluate import Evaluator, predictor
from inlearn.lab.build import build_model, build_study
from inlearn.lab.config import NUMERICS, RunBase, restored
from inlearn.lab.start import resolve_step
from inlearn.runs import checkpoints, metrics
from inlearn.runs.folder import RunFolder
from inlearn.runs.lines import read_lines
from inlearn.runs.remote_pull import bring, known_steps
from inlearn.training.parameters import load_weights

if TYPE_CHECKING:
    from inlearn.lab.analyse import Analysis


class Run:
    """One run by its folder. `run.metrics`, `run.evaluations`, `run.checkpoint("best").model()`, `run.report()`."""

    def __init__(self, folder: RunFolder):
        self.folder = folder

    def __repr__(self) -> str:
        status = self.folder.status
        name, kind = self.folder.name or self.id, self.folder.study["kind"]
        return f"<Run {name} of {kind}, {status.state} at step {status.step:,}>"

    @property
    def id(self) -> str:
        return self.folder.id

    @property
    def path(self) -> Path:
        return self.folder.path

    @cached_property
    def config(self) -> RunBase:
        from inlearn.lab.described import study_of

        return restored(study_of(self.folder), self.folder.config)

    @cached_property
    def study(self) -> Study:
        return build_study(self.config)

    @property
    def metrics(self) -> pd.DataFrame:
        """One row a training line: step, loss, rate, gradient_norm, phase."""
        return metrics.training_table(self.folder)

    @property
    def evaluations(self) -> pd.DataFrame:
        """The long table of every evaluation, the ideal learners' own lines (without step) first."""
        return metrics.evaluation_table(self.folder)

    @cached_property
    def evaluator(self) -> Evaluator:
        return Evaluator(self.study, self.config.seeds)

    @property
    def steps(self) -> list[int]:
        """Steps with a checkpoint, here or at the root's remote."""
        return known_steps(self.path)

    def checkpoint(self, which: int | str = "last") -> Checkpoint:
        """The checkpoint at a step, or "best", or "last"."""
        bring(self.path, str(which))
        return Checkpoint(self, resolve_step(checkpoints.CheckpointStore(self.path), self.id, str(which)))

    def report(self) -> Path:
        """Write report.html and figures/; the report's path."""
        from inlearn.lab.report import write_report

        return write_report(self)


class Checkpoint:
    """One checkpoint of a run."""

    def __init__(self, run: Run, step: int):
        self.run, self.step = run, step

    def model(self, device: str = "cpu") -> nn.Module:
        """The model as it was, in evaluation mode."""
        config, where = self.run.config, devices.choose(device)
        model = build_model(config, self.run.study.interface, where)
        load_weights(model, checkpoints.CheckpointStore(self.run.path).load(self.step).weights)
        return model.eval()

    def analyse(self, kind: str, *overrides: str, device: str = "cpu") -> Analysis:
        """An analysis of this checkpoint such as "probe", done once and kept in the run's analysis folder."""
        from inlearn.lab.analyse import analyse

        return analyse(self, kind, overrides, device)

    def evaluate(self, sets: Sequence[str] | None = None, device: str = "cpu") -> list[dict[str, Any]]:
        """Evaluation lines of this checkpoint and the ideal learners on `sets` (default: monitored).

        Done once: the lines are kept in the run's analysis folder under the hash of what was asked.
        """
        run = self.run
        chosen = list(run.study.monitored if sets is None else sets)
        for name in chosen:
            run.evaluator.task(name)
        store = checkpoints.CheckpointStore(run.path)
        store.load(self.step)  # a damaged checkpoint has no numbers, kept ones neither
        asked = {
            "analysis": "evaluation",
            "numerics": NUMERICS,
            "run": run.id,
            "weights": store.manifest(self.step)["files"]["weights.safetensors"]["sha256"],
            "sets": chosen,
            "device": device,
        }
        kept = run.path / "analysis" / f"evaluation-{digest(asked)}.jsonl"
        if not kept.exists():
            torch.set_num_threads(run.config.execution.threads)
            predict = predictor(
                self.model(device), run.study.tasks["train"], devices.choose(device), run.config.precision
            )
            lines = run.evaluator.references(chosen)
            lines += [{**line, "step": self.step} for line in run.evaluator.learner("model", predict, chosen)]
            write_text(kept, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
        return read_lines(kept, "evaluation")
