"""Analyses of a checkpoint, each done once: results and figures are kept in the run's analysis folder.

analysis/<kind>-<hash of what was asked>/
  result.safetensors  arrays              result.json  their axes, facts, and what was asked
  figures/            <title>.svg and the Vega-Lite specification of each, <title>.json
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from inlearn.analysis.results import Result
from inlearn.analysis.subject import Subject
from inlearn.core import device as devices
from inlearn.core.configuration import Config, assign, digest, resolve, split_override
from inlearn.core.errors import UserError, unknown
from inlearn.core.files import machine_faults, new_folder, write_json, write_text
from inlearn.lab import discovery
from inlearn.lab.build import build_model
from inlearn.lab.config import NUMERICS
from inlearn.runs import checkpoints
from inlearn.runs.locking import exclusive

if TYPE_CHECKING:
    import xarray

    from inlearn.lab.opened import Checkpoint

OTHER_INIT = 1 << 62  # between a run's seed of initial weights and its untrained control's: no run of a sweep has it


@dataclass(frozen=True)
class Analysis:
    """An analysis that is done. `data` is an xarray dataset, its axes by name."""

    path: Path
    result: Result
    method: Any

    @property
    def data(self) -> xarray.Dataset:
        return self.result.dataset()

    @property
    def tables(self) -> Iterable[tuple[str, Sequence[str], list[tuple[Any, ...]]]]:
        return self.method.tables(self.result)

    @property
    def figures(self) -> list[Path]:
        return sorted((self.path / "figures").glob("*.svg"))


def asked_for(kind: str, overrides: Sequence[str]) -> Config:
    """The checked configuration of an analysis; imports no torch of its own."""
    kinds = discovery.analyses()
    if kind not in kinds:
        raise unknown("analysis", kind, kinds)
    tree: dict[str, Any] = {"kind": kind}
    given: dict[str, str] = {}
    for text in overrides:
        key, value = split_override(text)
        if given.setdefault(key, value) != value:
            raise UserError(f"{key} is given twice: {given[key]} and {value}")
        assign(kinds[kind], tree, key, value)
    return resolve(kinds[kind], tree)


def analyse(
    checkpoint: Checkpoint,
    kind: str,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
) -> Analysis:
    """Do an analysis, or open it where it was done before."""
    run, config = checkpoint.run, asked_for(kind, overrides)
    method = config.build(say)
    store = checkpoints.CheckpointStore(run.path)
    store.load(checkpoint.step)  # a damaged checkpoint has no results, kept ones neither
    asked = {
        "analysis": config.model_dump(mode="json"),
        "numerics": NUMERICS,
        "run": run.id,
        "weights": store.manifest(checkpoint.step)["files"]["weights.safetensors"]["sha256"],
        "device": device,
    }
    folder = run.path / "analysis"
    kept = folder / f"{kind}-{digest(asked)}"
    if not kept.exists():
        torch.set_num_threads(run.config.execution.threads)
        _write(kept, method, method.run(_subject(checkpoint, device)), {**asked, "step": checkpoint.step})
    return Analysis(kept, Result.read(kept), method)


def _subject(checkpoint: Checkpoint, device: str) -> Subject:
    run, where = checkpoint.run, devices.choose(device)

    def untrained() -> torch.nn.Module:
        seeds = run.config.seeds.following(run.config.seed)
        other = run.config.model_copy(update={"seeds": seeds.model_copy(update={"init": seeds.init ^ OTHER_INIT})})
        return build_model(other, run.study.interface, where).eval()

    model = checkpoint.model(device)
    return Subject(run.study, model, untrained, run.evaluator.seeds, where, run.config.precision)


def _write(path: Path, method: Any, result: Result, asked: dict[str, Any]) -> None:
    """All of it or nothing. Of two processes that did the same work the first one's stays."""
    from inlearn.reports.figures import file_name, svg

    figures = [(file_name(title), caption, chart.to_dict()) for title, caption, chart in method.figures(result)]
    with machine_faults(path.parent):
        path.parent.mkdir(exist_ok=True)
    with exclusive(path.parent / ".lock"):
        for left in path.parent.glob(f".{path.name}.*.aside"):  # whoever made it held the lock, so it was killed
            shutil.rmtree(left)
        if path.exists():
            return
        with new_folder(path) as aside:
            result.write(aside, asked)
            (aside / "figures").mkdir()
            for name, caption, specification in figures:
                write_json(aside / "figures" / f"{name}.json", {**specification, "description": caption})
                write_text(aside / "figures" / f"{name}.svg", svg(specification))
