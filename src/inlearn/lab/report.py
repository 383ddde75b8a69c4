"""Pages about runs: what is generic (distances, losses, facts) beside what the study adds."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from inlearn.charts import positions, training
from inlearn.core.configuration import leaves
from inlearn.core.errors import UserError
from inlearn.lab.opened import Run
from inlearn.reports.page import Section, write_page
from inlearn.reports.reading import reading
from inlearn.runs.metrics import evaluation_table


def write_report(run: Run) -> Path:
    """report.html and figures/ of one run; the report's path."""
    folder, table = run.folder, run.evaluations
    if table["step"].isna().all():
        raise UserError(f"run {run.id} has no evaluation yet, so there is nothing to report")
    main = folder.study["monitored"][0]
    sections = [*_generic(run, table, main), *_of_study(run, evaluation_table(folder, kept=True))]
    path = folder.path / "report.html"
    name = folder.name or folder.id
    tables = [("Numbers at the last evaluation", final_numbers([run])), ("What the numbers are", _formulas(run))]
    write_page(path, folder.path / "figures", f"{folder.study['kind']}: {name}", reading(table, main), sections,
               _facts(run), tables)  # fmt: skip
    return path


def _generic(run: Run, table: pd.DataFrame, main: str) -> Iterable[Section]:
    metrics = run.metrics
    if run.folder.study["references"]:
        yield Section(
            "Where is the model heading?",
            "The distance of every checkpoint's predictions to those of each ideal learner, on evaluation set "
            f"'{main}'. A curve that falls means the model comes to predict what that learner predicts; the lowest "
            "curve names the solution it is nearest to. Bands are 95 % intervals over evaluation rows.",
            training.distances_over_training(table, main),
        )
    yield Section(
        "Loss over training",
        f"Evaluation loss on '{main}' beside the loss of the training batches. Horizontal lines are what the ideal "
        "learners reach on the same rows, and limits that none can pass.",
        training.loss_over_training(table, metrics, main, _bounds(run)),
    )
    if ((table["by"] == "position") & (table["measure"] == "loss") & (table["set"] == main)).any():
        yield Section(
            "Loss at each context position",
            "The model at a few steps against the ideal learners, on the same rows. A loss that falls from left to "
            "right is learning in context: later answers use earlier examples.",
            positions.loss_per_position(table, main),
        )


def _bounds(run: Run) -> dict[str, float]:
    """Limits in the unit of the loss."""
    study = run.folder.study
    return {bound["name"]: bound["value"] for bound in study["bounds"] if bound["unit"] == study["output_unit"]}


def _of_study(run: Run, table: pd.DataFrame) -> list[Section]:
    return [Section(*parts) for parts in run.study.charts(table, run.folder.study["labels"])]


# ---------------------------------------------------------------- facts and tables


def _facts(run: Run) -> list[tuple[str, str]]:
    folder = run.folder
    document, status, segments = folder.config, folder.status, folder.segments
    asked = document["config"]
    facts = [("run", folder.id), ("name", folder.name or "–"), ("study", folder.study["kind"])]
    facts += [("state", f"{status.state} at step {status.step:,}" + (f": {status.reason}" if status.reason else ""))]
    facts += [("parameters", f"{_parameters(run):,}")]
    facts += [("seeds", ", ".join(f"{stream} {seed}" for stream, seed in asked["seeds"].items()))]
    facts += [(key, str(value)) for key, value in leaves({k: asked[k] for k in ("study", "model", "training")})]
    facts += [("precision", asked["precision"]), ("started from", asked["start"] or "fresh weights")]
    facts += [("numerics", f"version {asked['numerics']}: the id is the hash of everything above")]
    for number, segment in enumerate(segments, 1):
        where = f"{segment['device_name']} ({segment['device']}), {segment['threads']} thread(s)"
        versions = f"torch {segment['torch']}, Python {segment['python']}, inlearn {segment['inlearn']}"
        seconds = f", {segment['seconds']:.0f} s" if "seconds" in segment else ""
        facts.append((f"process {number}, from step {segment['from_step']:,}",
                      f"{segment['started']}{seconds} on {where}; {versions}; commit {segment['commit'] or 'unknown'}; "
                      f"{shlex.join(segment['command'])}"))  # fmt: skip
    return facts


def _parameters(run: Run) -> int:
    return sum(p.numel() for p in run.config.model.build(run.study.interface).parameters())


def _formulas(run: Run) -> pd.DataFrame:
    study = run.folder.study
    unit = study["output_unit"]
    rows = [
        {
            "name": "distance",
            "unit": unit,
            "formula": "mean divergence of the model from the learner at scored positions",
        }
    ]
    rows += study["measures"]
    seen: dict[str, dict[str, Any]] = {}
    for row in rows:
        seen.setdefault(row["name"], row)
    return pd.DataFrame(seen.values())


def final_numbers(runs: Sequence[Run]) -> pd.DataFrame:
    """Overall means at each run's last evaluation: set, measure, reference, unit, then a column a run."""
    columns = ["set", "measure", "reference", "unit"]
    joined = None
    for run in runs:
        table = run.evaluations
        rows = table[(table["by"] == "") & (table["learner"] == "model")]
        rows = rows[rows["step"] == rows["step"].max()]
        own = rows[[*columns, "mean", "se"]].assign(reference=rows["reference"].fillna("–"))
        label = run.folder.name or run.id
        own = own.rename(columns={"mean": label, "se": f"{label} ± se"})
        joined = own if joined is None else joined.merge(own, on=columns, how="outer", sort=False)
    return joined


def differing_keys(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Every configuration key that is not the same in all runs, with its value in each."""
    trees = [dict(leaves(run.folder.config["config"])) for run in runs]
    keys = dict.fromkeys(key for tree in trees for key in tree)
    values = {key: [str(tree.get(key, "–")) for tree in trees] for key in keys}
    return {key: each for key, each in values.items() if len(set(each)) > 1}


# ---------------------------------------------------------------- other pages


COMPARED = "One line a run, over training. Lines across are ideal learners', where all runs share them."


def write_comparison(path: Path, runs: Sequence[Run]) -> Path:
    """One page with the runs' curves together; seeds of one configuration stay separate lines."""
    names = {run.id: run.folder.name or run.id for run in runs}
    kinds = {run.folder.study["kind"] for run in runs}
    if len(kinds) > 1:
        raise UserError(f"runs of different studies share no axis: {', '.join(sorted(kinds))}")
    table = pd.concat([evaluation_table(run.folder) for run in runs], ignore_index=True)
    shared = set.intersection(*(set(run.folder.study["monitored"]) for run in runs))
    sections = []
    for name in (name for name in runs[0].folder.study["monitored"] if name in shared):
        # Sets whose plain loss has no overall mean (one over gains would be the largest gain's) have a scaled one.
        overall = table[(table["set"] == name) & (table["by"] == "") & (table["learner"] == "model")]["measure"]
        measure = next((m for m in ("loss", "loss_scaled") if m in set(overall)), None)
        if measure is not None:
            title = f"{measure.replace('_', ' ').capitalize()} on {name}"
            sections.append(Section(title, COMPARED, training.runs_over_training(table, measure, name, names)))
    keys = differing_keys(runs)
    rows = [{"key": key, **dict(zip(names.values(), values, strict=True))} for key, values in keys.items()]
    tables = [("What differs", pd.DataFrame(rows)), ("Numbers at the last evaluation", final_numbers(runs))]
    summary = f"{len(runs)} runs of {kinds.pop()}: {', '.join(names.values())}. They differ in {len(keys)} keys."
    if problems := [key for key in keys if key.startswith("study.") and not key.startswith("study.evaluation")]:
        summary += f"\n\nThese runs solve different problems ({', '.join(problems)}): their losses are not comparable."
    write_page(path, path.parent / f"{path.stem}-figures", "Comparison", summary, sections, (), tables)
    return path


def write_description(path: Path, study: str, parts: Sequence[tuple[str, Any]]) -> Path:
    """A study's data: its tables and charts as one page."""
    sections = [Section(title, "", content) for title, content in parts if isinstance(content, alt.TopLevelMixin)]
    tables = [(title, pd.DataFrame(content)) for title, content in parts if isinstance(content, list)]
    summary = f"What study {study} is about, in numbers."
    write_page(path, path.parent / f"{path.stem}-figures", f"{study}: the data", summary, sections, (), tables)
    return path
