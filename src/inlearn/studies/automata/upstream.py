"""Results that the published project's scripts left behind as JSON, read into one long table.

Five schemas, told apart by their keys: metrics of a training, of a linear probe, what its aggregator expected of a run
(`experiment_name`, `test_results`), a run of the ablation studies, and their summary of several runs. Everything else,
and whatever is unfinished, is skipped with the reason.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from inlearn.core.configuration import digest, leaves
from inlearn.core.errors import UserError
from inlearn.statistics.intervals import mean_interval

MOST_BYTES = 1 << 26
RUN = re.compile(r"(.+)_run(\d+)$")
Document = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """One run of the published project. `values` by (set, measure); `asked` is its configuration, as far as told.

    run: what tells it from the experiment's other runs; `named`: by a save name, so that a second one replaces it.
    """

    experiment: str
    run: str
    named: bool
    schema: str
    file: str
    when: str
    asked: dict[str, Any]
    values: dict[tuple[str, str], float]
    parameters: int | None = None
    epochs: int | None = None
    curve: Sequence[float] = ()

    @property
    def config(self) -> str:
        return digest(self.asked)


@dataclass(frozen=True)
class Upstream:
    """The runs that count; `notes` say what was skipped, replaced, or kept apart, and why."""

    runs: list[Found]
    notes: list[str] = field(default_factory=list)

    @property
    def long(self) -> pd.DataFrame:
        """One row a run and value."""
        columns = ["experiment", "config", "run", "set", "measure", "value", "parameters", "epochs", "schema", "file"]
        rows = [
            (one.experiment, one.config, one.run, *what, value, one.parameters, one.epochs, one.schema, one.file)
            for one in self.runs
            for what, value in one.values.items()
        ]
        return pd.DataFrame(rows, columns=columns).astype({"parameters": "Int64", "epochs": "Int64"})

    @property
    def groups(self) -> pd.DataFrame:
        """One row an experiment, configuration, set and measure: mean, std (ddof 1), low, high (95 %, t), n, min, max.

        epochs_to_90: mean over runs of the first epoch whose validation accuracy reached 90 % of the last one's.
        """
        rows = []
        keys = ["experiment", "config", "set", "measure"]
        speeds = {(one.experiment, one.config, one.run): epochs_to(one.curve) for one in self.runs}
        for key, here in self.long.groupby(keys, sort=False):
            runs = [speeds[key[0], key[1], run] for run in here["run"]]
            known = [epoch for epoch in runs if epoch is not None]
            spread = {"min": here["value"].min(), "max": here["value"].max()}
            speed = {"epochs_to_90": sum(known) / len(known) if known else math.nan}
            named = dict(zip(keys, key, strict=True)) | {"parameters": here["parameters"].iloc[0]}
            rows.append(named | vars(mean_interval(here["value"])) | spread | speed)
        columns = [*keys, "parameters", "mean", "std", "low", "high", "n", "min", "max", "epochs_to_90"]
        return pd.DataFrame(rows, columns=columns)


def epochs_to(curve: Sequence[float], share: float = 0.9) -> int | None:
    """The first epoch (from 1) at which `curve` reached `share` of its last value."""
    return next((epoch for epoch, value in enumerate(curve, 1) if value >= share * curve[-1]), None)


def read(folders: Sequence[Path]) -> Upstream:
    """All results below `folders`; none is no mistake. `UserError` for a folder that is not there."""
    notes: list[str] = []
    found: list[Found] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; expected one with the published project's results")
        for path in sorted(folder.rglob("*.json")):
            try:
                for one in _runs(path):
                    if isinstance(one, Found):
                        found.append(one)
                    else:
                        notes.append(f"{path}: {one}")
            except _Skipped as why:
                notes.append(f"{path} is skipped: {why}")
    kept = _latest(found, notes)
    return Upstream(kept, notes + _apart(kept))


class _Skipped(ValueError):
    pass


def _runs(path: Path) -> Iterator[Found | str]:
    """The runs of a file; a sentence for each one in a summary that does not count."""
    document = _document(path)
    if isinstance(document.get("runs"), list) and "architecture" in document:
        shared = {"architecture": document["architecture"], "stages": document.get("curriculum_stages")}
        for number, run in enumerate(document["runs"], 1):
            try:
                yield _ablation(path, run, shared)
            except _Skipped as why:
                yield f"its run {number} is skipped: {why}"
        return
    if "stage_metrics" in document or "initial_test_accuracy" in document:
        yield _ablation(path, document, _shared(path))
    elif "experiment_name" in document and "test_results" in document:
        yield _expected(path, document)
    elif "parameter_counts" in document and "checkpoint" in document:
        yield _probe(path, document)
    elif "experiment" in document and ("training_history" in document or "final_results" in document):
        yield _training(path, document)
    else:
        keys = ", ".join(list(document)[:6]) or "none"
        raise _Skipped(f"it has no known schema (keys: {keys})")


def _document(path: Path) -> Document:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise _Skipped(f"it has more than {MOST_BYTES >> 20} MiB")
        document = json.loads(path.read_bytes(), parse_constant=lambda name: None)  # NaN and infinities
    except OSError as error:
        raise _Skipped(f"it cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise _Skipped("it is not whole JSON; was it being written?") from None
    if not isinstance(document, Mapping):
        raise _Skipped("it is no mapping")
    return document


# ---------------------------------------------------------------- schemas


def _training(path: Path, document: Document) -> Found:
    """`<name>_<time>_metrics.json` of the training scripts."""
    history, final = _part(document, "training_history"), _part(document, "final_results")
    asked = {key: document.get(key) for key in ("model_config", "training_config", "fsm_config", "curriculum_info")}
    curve = _numbers(history.get("val_accs"))
    wanted = _part(document, "training_config").get("num_epochs")
    values = _values(
        {("test", "accuracy"): final.get("test_accuracy"), ("validation", "accuracy"): final.get("val_accuracy")}
    )
    if ("test", "accuracy") not in values:
        done = f" after {len(curve)} of {wanted} epochs" if wanted else ""
        raise _Skipped(f"it is unfinished: no finite final_results.test_accuracy{done}")
    name = document.get("save_name") or document["experiment"]
    return _named(path, document, str(name), "training", asked, values, document.get("parameters"), curve)


def _probe(path: Path, document: Document) -> Found:
    """`lstm_linear_probe_<time>_results.json`; the run is the one whose checkpoint was probed."""
    final = _part(document, "final_results")
    values = _values(
        {
            ("test", "accuracy"): final.get("test_accuracy"),
            ("test", "loss"): final.get("test_loss"),
            ("validation", "accuracy"): final.get("best_val_accuracy"),
        }
    )
    if ("test", "accuracy") not in values:
        raise _Skipped("it is unfinished: no finite final_results.test_accuracy")
    of = Path(str(document["checkpoint"])).stem.removesuffix("_best").removesuffix("_last")
    asked = {key: document.get(key) for key in ("model_config", "training_config")}
    curve = _numbers(_part(document, "training_history").get("val_accs"))
    parameters = _part(document, "parameter_counts").get("probe_params")
    return _named(path, document, f"linear_probe_{of}", "probe", asked, values, parameters, curve)


def _expected(path: Path, document: Document) -> Found:
    """`run_<k>.json` as the published aggregator expected it, which no script ever wrote."""
    results = _part(document, "test_results")
    values = _values({("test", "accuracy"): results.get("accuracy"), ("test", "loss"): results.get("loss")})
    if ("test", "accuracy") not in values:
        raise _Skipped("it is unfinished: no finite test_results.accuracy")
    asked = {key: document.get(key) for key in ("model_config", "training_config", "fsm_config")}
    number = re.fullmatch(r"run_(\d+)", path.stem)
    name = str(document["experiment_name"])
    name = name if RUN.match(name) or not number else f"{name}_run{number[1]}"
    return _named(path, document, name, "aggregator", asked, values, document.get("parameters"), ())


def _ablation(path: Path, run: Document, shared: Mapping[str, Any]) -> Found:
    """A run of an ablation study, in `<architecture>_ablation/run_<time>/`, of its own file or of the summary."""
    if not isinstance(run, Mapping):
        raise _Skipped("a run in it is no mapping")
    values = _values({("test", "accuracy"): run.get("initial_test_accuracy")})
    if not values:
        raise _Skipped("it is unfinished: no finite initial_test_accuracy")
    for length, results in _part(run, "query_length_results").items():
        if isinstance(results, Mapping):
            read = {key: value for key, value in results.items() if "acc" in key and "baseline" not in key}
            values |= _values({(f"query_{length}", "accuracy"): next(iter(read.values()), None)})
    stages = [[e for e in _list(stage) if isinstance(e, Mapping)] for stage in _list(run.get("stage_metrics"))]
    stages = [stage for stage in stages if stage]  # a stage that was not reached is empty
    curve = _numbers([epoch.get("val_acc") for epoch in stages[-1]]) if stages else ()
    if curve:
        values[("validation", "accuracy")] = curve[-1]
    asked = {"hyperparameters": run.get("hyperparameters"), "parameters": run.get("num_parameters"), **shared}
    started = path.parent.name.removeprefix("run_")
    experiment = path.parent.parent.name or path.parent.name
    name = f"{started}/{run.get('run_id', path.stem)}"
    parameters, epochs = _whole(run.get("num_parameters")), sum(map(len, stages))
    return Found(experiment, name, True, "ablation", str(path), started, asked, values, parameters, epochs, curve)


def _shared(path: Path) -> dict[str, Any]:
    """What the summary beside an ablation's run says of all of its runs, if it is there."""
    try:
        summary = _document(path.with_name("summary.json"))
    except _Skipped:
        return {"architecture": None, "stages": None}
    return {"architecture": summary.get("architecture"), "stages": summary.get("curriculum_stages")}


def _named(
    path: Path,
    document: Document,
    name: str,
    schema: str,
    asked: dict[str, Any],
    values: dict[tuple[str, str], float],
    parameters: Any,
    curve: Sequence[float],
) -> Found:
    """A run by its save name, `X_run3` or a plain one; without any, its time tells it apart."""
    when = str(document.get("timestamp", ""))
    numbered = RUN.fullmatch(name)
    named = bool(numbered) or bool(document.get("save_name"))
    experiment, run = (numbered[1], numbered[2]) if numbered else (name, name if named else when or str(path))
    epochs = len(curve) or None
    return Found(experiment, run, named, schema, str(path), when, asked, values, _whole(parameters), epochs, curve)


def _part(document: Document, key: str) -> Document:
    part = document.get(key)
    return part if isinstance(part, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in _list(values) if _is_number(v) and math.isfinite(v))


def _whole(value: Any) -> int | None:
    return value if _is_number(value) and isinstance(value, int) else None


def _is_number(value: Any) -> bool:
    """Not true or false, nor an integer that no float or table holds."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 1 << 63)


def _values(read: Mapping[tuple[str, str], Any]) -> dict[tuple[str, str], float]:
    return {what: number for what, value in read.items() for number in _numbers([value])}


# ---------------------------------------------------------------- which count


def _latest(found: Sequence[Found], notes: list[str]) -> list[Found]:
    """Of runs of one name the latest; a summary's copy of a run that has its own file is no second run."""
    kept: dict[tuple[str, ...], Found] = {}
    for one in sorted(found, key=lambda one: one.when):
        key = (one.schema, one.experiment, one.run) if one.named else (one.schema, one.file)
        before = kept.pop(key, None)
        if before is not None and before.values != one.values:
            notes.append(f"{before.file} is replaced by {one.file}: both are run {one.run} of {one.experiment}")
        kept[key] = one
    order = {id(one): place for place, one in enumerate(found)}
    return sorted(kept.values(), key=lambda one: (one.experiment, order.get(id(one), 0), one.run))


def _apart(runs: Sequence[Found]) -> list[str]:
    """A sentence for every experiment whose runs have several configurations."""
    notes = []
    for name in dict.fromkeys(one.experiment for one in runs):
        asked = {one.config: dict(leaves(one.asked)) for one in runs if one.experiment == name}
        if len(asked) > 1:
            keys = dict.fromkeys(key for tree in asked.values() for key in tree)
            differ = [key for key in keys if len({json.dumps(tree.get(key)) for tree in asked.values()}) > 1]
            told = ", ".join(differ[:5])
            notes.append(f"{name} has {len(asked)} configurations, kept apart; they differ in {told}")
    return notes
