"""From a plan to its runs: each point composed and checked, with the id that its folder has. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.config import MATCHED, RunBase, full_key, run_config
from inlearn.lab.request import Request, request
from inlearn.runs.folder import differences
from inlearn.sweeps.plan import Plan, Point, points


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan. `axes`: what varies in the plan, by key, as the configuration understood it; where
    model.match_params became several widths, model.width too.

    `last`: the step that it is asked to reach (training.until, or training.steps).
    """

    id: str
    axes: dict[str, Any]
    overrides: tuple[str, ...]
    last: int

    @property
    def label(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.axes.items()) or self.id


def planned(plan: Plan, root: Path) -> tuple[list[PlannedRun], list[str]]:
    """The runs that `plan` asks for below `root`, in order and each once, and remarks on the plan.

    Raises `UserError` for the first point that cannot be a run.
    """
    found = discovery.study(plan.study)
    every, remarks = points(plan, spelling(found))
    axes = [key for key in dict.fromkeys(k for point in every for k in point) if len({p.get(key) for p in every}) > 1]
    told: dict[str, None] = {}  # in order, each once
    runs: dict[str, PlannedRun] = {}
    names: dict[str, str] = {}
    configs: dict[str, RunBase] = {}
    for point in every:
        asked = _request(found, point, axes, root, told)
        _note_name(names, asked)
        varies = {key: _value(asked.config, point, key) for key in axes if key in point}
        run = PlannedRun(asked.id, varies, _texts(point), asked.config.training.last)
        if (first := configs.setdefault(asked.id, asked.config)) is not asked.config:
            _refuse_unhashed(first, asked)
        runs.setdefault(asked.id, run)
    _show_widths(list(runs.values()), configs)
    remarks += told
    if len(runs) < len(every):
        remarks.append(f"{len(every):,} points are {len(runs):,} run{'s' * (len(runs) > 1)}")
    return list(runs.values()), remarks


def spelling(found: discovery.FoundStudy) -> Callable[[str], str]:
    """The one spelling of a key: `study.task.count` and `task.count` are the same, an unknown key is refused."""
    root, known = run_config(found.config), {}

    def same(key: str) -> str:
        if key not in known:
            plain = key.startswith("$") or key == "preset"
            known[key] = key if plain else full_key(key, root).removeprefix("study.")
        return known[key]

    return same


def _request(
    found: discovery.FoundStudy, point: Point, axes: Sequence[str], root: Path, told: dict[str, None]
) -> Request:
    heard: list[str] = []
    try:
        asked = request(found, _texts(point), root, heard.append)
        told |= {f"{asked.config.model.kind}: {sentence}": None for sentence in heard}
        return asked
    except UserError as error:
        where = ", ".join(f"{key}={point[key]}" for key in axes if key in point)
        raise UserError(f"{error} (at {where})" if where else str(error)) from None


def document_of(root: Path, study: str, run: PlannedRun) -> dict[str, Any]:
    """What config.json of the run would hold."""
    return request(discovery.study(study), run.overrides, root).document


def _note_name(names: dict[str, str], asked: Request) -> None:
    """Note the name of a run; `UserError` where another run of the plan has it."""
    name = asked.config.name
    if name is not None and names.setdefault(name, asked.id) != asked.id:
        raise UserError(
            f"name={name} would name several runs; put what differs into it, as in name=m{{task.count}}_s{{seed}}"
        )


def _refuse_unhashed(first: RunBase, asked: Request) -> None:
    """Two points that are one run must ask the same of it: it can be recorded, or end, in one way only."""
    told = {"preset"}  # two presets may well mean one run
    one, other = (config.model_dump(mode="json", exclude=told) for config in (first, asked.config))
    for key, old, new in differences(one, other):
        raise UserError(
            f"{key} = {old} and {key} = {new} are one run, {asked.id}: {key} is not part of what a run is, "
            "so it cannot be an axis"
        )


def _texts(point: Point) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in point.items())


def resolves_width(run: PlannedRun) -> bool:
    """Whether the run's width follows from what else is asked of it."""
    return any(text.startswith(f"{MATCHED}=") for text in run.overrides)


def _show_widths(runs: Sequence[PlannedRun], configs: Mapping[str, RunBase]) -> None:
    """Add model.width to the axes of runs whose widths model.match_params resolved, where they are not all the same."""
    resolved = {run.id: configs[run.id].model.width for run in runs if resolves_width(run)}
    if len(set(resolved.values())) > 1:
        for run in runs:
            if run.id in resolved:
                run.axes["model.width"] = resolved[run.id]


def _value(config: RunBase, point: Point, key: str) -> Any:
    """The value at `key` as JSON has it; of a choice by kind, its kind."""
    if key == MATCHED:
        return int(point[key])
    first = key.partition(".")[0]
    node: Any = config if first in type(config).model_fields else config.study
    for name in key.split("."):
        node = getattr(node, name, None)
    if isinstance(node, BaseModel):
        return getattr(node, "kind", None) or node.model_dump(mode="json")
    return list(node) if isinstance(node, tuple) else node
