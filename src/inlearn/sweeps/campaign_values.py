"""What the runs of a campaign came to: their checkpoints on evaluation sets, and the gates that look at these."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from inlearn.core.contract import Study
from inlearn.core.errors import UserError, unknown
from inlearn.core.files import machine_faults
from inlearn.lab.analyse import analyse
from inlearn.lab.opened import Run
from inlearn.runs.folder import RunFolder
from inlearn.runs.lines import MetricsWriter, read_lines
from inlearn.runs.locking import exclusive
from inlearn.sweeps.campaign import Analysed, Campaign, Gate, Value
from inlearn.sweeps.planned import PlannedRun
from inlearn.sweeps.readings import Readings
from inlearn.sweeps.standing import standings

Say = Callable[[str], None]
Verdict = Literal["passed", "failed", "undecided"]


class Measured:
    """The checkpoints of finished runs on evaluation sets. What was evaluated once is kept in the run's folder."""

    def __init__(self, root: Path, at: str, say: Say) -> None:
        self.root, self.at, self.say = root, at, say
        self._runs: dict[str, Run] = {}
        self._lines: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def lines(self, id: str, set_: str) -> list[dict[str, Any]]:
        """Evaluation lines of one run's checkpoint and the ideal learners on one set; none where it has no such set."""
        if (id, set_) not in self._lines:
            run = self._runs.setdefault(id, Run(RunFolder(self.root / id)))
            known = set_ in run.study.tasks
            self._lines[id, set_] = (
                run.checkpoint(self.at).evaluate([set_], run.config.execution.device) if known else []
            )
        return self._lines[id, set_]

    def read(self, id: str, value: Value) -> float | None:
        """The model's value; None where there is none, or no finite one."""
        rows = self._rows(id, value)
        return next((row["mean"] for row in rows if row["learner"] == "model" and not row["reference"]), None)

    def readings(self, ids: Sequence[str], value: Value) -> Readings:
        """The same of many runs with their ideal learners, as a summary takes it."""
        rows = [row for id in ids for row in self._rows(id, value)]
        columns = ["run", "step", "set", "learner", "measure", "reference", "unit", *value.at, "mean"]
        table = pd.DataFrame(rows, columns=columns).astype({"mean": float})
        lacking = len(set(ids) - set(table["run"]))
        notes = [f"{lacking:,} runs have no {value}"] if lacking else []
        return Readings(table, list(dict.fromkeys(table["run"])), f"each run's {self.at} checkpoint", notes)

    def analysed(self, id: str, asked: Analysed) -> float:
        """One number of an analysis of the run's checkpoint. `UserError` where it has no such number."""
        run = self._runs.setdefault(id, Run(RunFolder(self.root / id)))
        checkpoint = run.checkpoint(self.at)
        result = analyse(checkpoint, asked.analysis, asked.overrides, run.config.execution.device, self.say).result
        if asked.array not in result.arrays:
            raise unknown("array", asked.array, result.arrays)
        place = []
        if beyond := asked.at.keys() - set(result.axes[asked.array]):
            raise unknown("axis", min(beyond), result.axes[asked.array])
        for axis in result.axes[asked.array]:
            labels = list(map(str, result.labels[axis]))
            if asked.at.get(axis) not in labels:
                raise UserError(f"{asked}: {axis} = {asked.at.get(axis)}; expected one of {', '.join(labels)}")
            place.append(labels.index(asked.at[axis]))
        return float(result.arrays[asked.array][tuple(place)])

    def analysed_readings(self, ids: Sequence[str], asked: Analysed) -> Readings:
        """The same of many runs, as a summary takes it; those without are noted."""
        rows, notes = [], []
        for id in ids:
            try:
                rows.append({"run": id, "set": asked.analysis, "measure": str(asked), "mean": self.analysed(id, asked)})
            except UserError as error:
                notes.append(f"run {id}: {error}")
        columns = ["run", "step", "set", "learner", "measure", "reference", "unit", "mean"]
        table = pd.DataFrame(rows, columns=columns).astype({"mean": float})
        table = table.assign(learner="model", reference="", unit=asked.array)
        return Readings(table, [row["run"] for row in rows], f"each run's {self.at} checkpoint", notes)

    def _rows(self, id: str, value: Value) -> list[dict[str, Any]]:
        wanted = list(value.at.values())
        return [
            {"run": id, "step": line.get("step"), "reference": line["reference"] or "", "mean": mean, **value.at}
            | {key: line[key] for key in ("set", "learner", "measure", "unit")}
            for line in self.lines(id, value.set)
            if line["measure"] == value.measure and ",".join(line["by"]) == value.by
            for level, mean in zip(line["at"], line["mean"], strict=True)
            if level == wanted
        ]


def check_value(study: Study, value: Value) -> None:
    """Raise `UserError` where runs of `study` cannot have this value."""
    if value.set not in study.tasks:
        raise unknown("evaluation set", value.set, study.tasks)
    slices = {m.name: {",".join(by) for by in m.by} for m in study.measures if not m.sets or value.set in m.sets}
    slices.setdefault("loss", set())
    if value.measure not in slices:
        raise unknown("measure", value.measure, slices)
    if value.at and value.by not in slices[value.measure]:
        listed = ", ".join(sorted(slices[value.measure])) or "nothing"
        raise UserError(f"{value.measure} on {value.set} is not sliced by {value.by}; it is by: {listed}")


# ---------------------------------------------------------------- gates


@dataclass(frozen=True)
class Decision:
    """Whether an experiment passed a gate, with what was looked at: the finite values by run id."""

    experiment: str
    gate: str
    verdict: Verdict
    why: str
    mean: float | None = None
    values: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.experiment}: {self.gate} {self.verdict}: {self.why}"


def decide(measured: Measured, campaign: Campaign, experiment: str, name: str, runs: Sequence[PlannedRun]) -> Decision:
    """The gate `name` on what is finished among `runs`."""
    gate = campaign.gates[name]
    of = gate.of or campaign.result
    found = standings(measured.root, runs)
    read = {s.run.id: measured.read(s.run.id, of) for s in found if s.done}
    finite = {id: value for id, value in read.items() if value is not None and math.isfinite(value)}
    apart = [f"{sum(not s.done for s in found)} of {len(found)} runs did not finish"] * any(not s.done for s in found)
    apart += [f"{len(read) - len(finite)} without a finite value"] * (len(finite) < len(read))
    told = "".join(f"; {text}" for text in apart)
    if len(finite) < gate.runs:
        why = f"{len(finite)} runs have {of}, the gate needs {gate.runs}{told}"
        return Decision(experiment, name, "undecided", why, None, finite)
    mean = math.fsum(finite.values()) / len(finite)
    verdict = "passed" if gate.holds(mean) else "failed"
    why = f"{of} {mean:.4f} (n = {len(finite)}), the gate asks for {gate}{told}"
    return Decision(experiment, name, verdict, why, mean, finite)


def keep(path: Path, gate: Gate, decision: Decision) -> None:
    """Add a decision to the log at `path`, unless the last one on the same gate said the same of the same runs."""
    line = vars(decision) | {"least": gate.least, "most": gate.most, "needs": gate.runs}
    with machine_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.with_name(".lock")):
        before = last_decisions(path).get((decision.experiment, decision.gate), {})
        if {key: value for key, value in before.items() if key != "decided"} == json.loads(json.dumps(line)):
            return
        writer = MetricsWriter(path)
        writer.write(line | {"decided": time.strftime("%Y-%m-%d %H:%M:%S %z")})
        writer.close()


def last_decisions(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The last decision on every gate, by experiment and gate."""
    return {(line["experiment"], line["gate"]): line for line in read_lines(path)}
