"""Summaries against numbers known beforehand, written as runs write them; and of a real sweep, by the command line."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import inlearn
from inlearn.cli.main import main
from inlearn.core.errors import UserError
from inlearn.runs.folder import RunFolder
from inlearn.runs.lines import MetricsWriter
from inlearn.runs.query import query
from inlearn.sweeps.folder import store_plan
from inlearn.sweeps.plan import Plan
from inlearn.sweeps.planned import PlannedRun
from inlearn.sweeps.readings import Asked, read_values
from inlearn.sweeps.summarise import curves

STUDY = {"kind": "regression", "monitored": ["train", "gains"], "labels": {"gains": {"gain": [3.0, 10.0]}}}
WHAT = {"set": "train", "learner": "model", "measure": "loss", "reference": None, "unit": "nats", "by": [], "at": [[]]}
STEPS = (0, 10, 100)


def line(mean: float | list[float] | None, step: int | None = None, **other: Any) -> dict[str, Any]:
    means = mean if isinstance(mean, list) else [mean]
    levels = {} if len(means) == 1 else {"by": ["gain"], "at": [[i] for i in range(len(means))]}
    at = {} if step is None else {"step": step}
    return (
        {"event": "evaluation"}
        | WHAT
        | levels
        | other
        | {"mean": means, "se": [0.1] * len(means), "n": [8] * len(means)}
        | at
    )


def run_with(
    root: Path,
    id: str,
    losses: Mapping[int, float | None],
    state: str = "finished",
    ridge: float = 1.0,
    last: int = 100,
) -> None:
    """A run whose loss on `train` is `losses` by step, its distance to ridge half of that, and its losses by gain."""
    run = RunFolder.create(root, id, {"id": id, "config": {}}, STUDY)
    metrics, references = (MetricsWriter(run.path / name) for name in ("metrics.jsonl", "references.jsonl"))
    references.write(line(ridge, learner="ridge"))
    references.write(line([ridge * 9, ridge * 100], learner="ridge", set="gains"))
    for step, loss in losses.items():
        metrics.write(line(loss, step))
        metrics.write(line(None if loss is None else loss / 2, step, measure="distance", reference="ridge"))
        metrics.write(line([0.0 if loss is None else loss * 9, 5.0], step, set="gains"))
    metrics.close()
    references.close()
    run.set_status(state, last)


LOSSES = {  # (count, seed) -> loss at step 100
    (1, 0): 1.0, (1, 1): 2.0, (1, 2): 3.0, (4, 0): 2.5, (4, 1): 3.0, (4, 2): 5.0, ("inf", 0): 7.0, ("inf", 1): 9.0,
}  # fmt: skip


def identity(count: Any, seed: int) -> str:
    return f"{[1, 4, 'inf'].index(count):06x}{seed:06x}"


def stored(root: Path, runs: Sequence[PlannedRun], name: str = "known") -> None:
    store_plan(root, Plan(study="regression", name=name), runs)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    runs = []
    for (count, seed), loss in LOSSES.items():
        id = identity(count, seed)
        run_with(tmp_path, id, {0: loss + 2, 10: loss + 1, 100: loss}, ridge=1.0 + seed)
        runs.append(PlannedRun(id, {"task.count": count, "seed": seed}, (f"task.count={count}", f"seed={seed}"), 100))
    stored(tmp_path, runs)
    return tmp_path


def only(table: pd.DataFrame, **values: Any) -> dict[str, Any]:
    for key, value in values.items():
        table = table[table[key] == value]
    (row,) = table.to_dict("records")
    return row


def summary(root: Path, **asked: Any):
    return inlearn.open_runs("known", root).summarise(**asked)


# ---------------------------------------------------------------- groups


def test_groups_have_mean_deviation_interval_and_n(root: Path) -> None:
    found = summary(root)
    assert found.axes == ["task.count"] and found.over == ["seed"] and found.at == "step 100"
    for count, values in ((1, [1, 2, 3]), (4, [2.5, 3, 5]), ("inf", [7, 9])):
        row = only(found.groups, **{"task.count": count}, learner="model", measure="loss")
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (row["mean"], row["std"]) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
        assert (row["low"], row["high"], row["n"]) == (pytest.approx(low), pytest.approx(high), len(values))
        assert (row["step"], row["unit"], row["not_finite"]) == (100, "nats", 0)
        half = only(found.groups, **{"task.count": count}, learner="model", measure="distance", reference="ridge")
        assert half["mean"] == pytest.approx(np.mean(values) / 2)
    ideal = only(found.groups, **{"task.count": 4}, learner="ridge", measure="loss")
    assert (ideal["mean"], ideal["n"]) == (2.0, 3) and pd.isna(ideal["step"])
    assert list(dict.fromkeys(found.groups["task.count"])) == [1, 4, "inf"]


def test_slices_carry_the_studys_labels(root: Path) -> None:
    found = summary(root, by="gain", measures=["loss"])
    assert set(found.groups["set"]) == {"gains"} and found.marks == ["gain"]
    assert only(found.groups, **{"task.count": 1, "gain": 3.0}, learner="model")["mean"] == pytest.approx(18.0)
    assert only(found.groups, **{"task.count": 1, "gain": 10.0}, learner="model")["mean"] == 5.0
    assert "distance on train, gains: no slices by gain" in summary(root, by="gain").notes


def test_over_says_what_is_averaged(root: Path) -> None:
    found = summary(root, over=["task.count"])
    assert found.axes == ["seed"] and only(found.groups, seed=2, learner="model", measure="loss")["n"] == 2
    with pytest.raises(UserError, match=r"unknown axis 'task\.coun'; did you mean 'task\.count'"):
        summary(root, over=["task.coun"])
    every = summary(root, over=["task.count", "seed"])
    assert every.axes == [] and only(every.groups, learner="model", measure="loss")["n"] == 8


def test_one_run_has_no_interval(root: Path) -> None:
    run_with(root, "a" * 12, {100: 2.0})
    stored(root, [PlannedRun("a" * 12, {"seed": 0}, (), 100)], "single")
    (row,) = (
        inlearn.open_runs("single", root)
        .summarise(measures=["loss"], interval="t")
        .groups.query("learner=='model'")
        .to_dict("records")
    )
    assert row["mean"] == 2.0 and row["n"] == 1 and all(math.isnan(row[name]) for name in ("std", "low", "high"))


def test_bootstrap_intervals_are_inside_the_values_and_the_same_every_time(root: Path) -> None:
    first, again = (summary(root, interval="bootstrap").groups for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    row = only(first, **{"task.count": 4}, learner="model", measure="loss")
    assert 2.5 <= row["low"] < row["mean"] < row["high"] <= 5.0


def test_an_axis_named_as_one_of_our_columns_is_written_out(root: Path) -> None:
    run_with(root, "b" * 12, {100: 2.0})
    run_with(root, "c" * 12, {100: 4.0})
    stored(
        root, [PlannedRun(c * 12, {"n": i, "betas": [0.9, i]}, (f"n={i}",), 100) for i, c in enumerate("bc")], "taken"
    )
    runs = inlearn.open_runs("taken", root)
    assert runs.axes == ["study.n", "betas"]
    assert only(runs.summarise().groups, **{"study.n": 1}, learner="model", measure="loss")["betas"] == "[0.9, 1]"


# ---------------------------------------------------------------- what is left out


def test_unfinished_runs_are_told(root: Path) -> None:
    RunFolder(root / identity(1, 2)).set_status("failed", 10, "the loss is no number")
    RunFolder(root / identity(4, 2)).set_status("running", 10)
    found = summary(root)
    assert found.notes[0] == "2 of 8 runs are left out: 1 failed, 1 interrupted"
    assert only(found.groups, **{"task.count": 1}, learner="model", measure="loss")["n"] == 2
    for count, seed in LOSSES:
        RunFolder(root / identity(count, seed)).set_status("failed", 10)
    with pytest.raises(UserError, match="no finished run to summarise: 8 of 8 runs are left out: 8 failed"):
        summary(root)


def test_values_that_are_not_finite_are_told_and_not_averaged(root: Path) -> None:
    run_with(root, "d" * 12, {100: None})
    run_with(root, "e" * 12, {100: 3.0})
    stored(root, [PlannedRun(c * 12, {"seed": i}, (f"seed={i}",), 100) for i, c in enumerate("de")], "null")
    found = inlearn.open_runs("null", root).summarise(measures=["loss"])
    row = only(found.groups, learner="model")
    assert (row["mean"], row["n"], row["not_finite"]) == (3.0, 1, 1)
    assert "1 values are not finite and left out (column not_finite)" in found.notes


def test_a_group_without_any_finite_value_has_no_mean(root: Path) -> None:
    run_with(root, "d" * 12, {100: None})
    stored(root, [PlannedRun("d" * 12, {"seed": 0}, (), 100)], "null")
    row = only(inlearn.open_runs("null", root).summarise(measures=["loss"]).groups, learner="model")
    assert math.isnan(row["mean"]) and (row["n"], row["not_finite"]) == (0, 1)


# ---------------------------------------------------------------- steps


def test_the_step_is_the_last_that_all_share(root: Path) -> None:
    run_with(root, "f" * 12, {0: 9.0, 10: 8.0, 50: 7.5, 200: 1.0})
    runs = [
        PlannedRun(identity(1, 0), {"seed": 0}, ("seed=0",), 100),
        PlannedRun("f" * 12, {"seed": 1}, ("seed=1",), 100),
    ]
    stored(root, runs, "longer")
    opened = inlearn.open_runs("longer", root)
    common = opened.summarise(measures=["loss"])
    assert common.at == "step 10" and any("their own last are steps 100 to 200" in note for note in common.notes)
    assert only(common.groups, learner="model")["mean"] == (2.0 + 8.0) / 2
    last = only(opened.summarise(step="last", measures=["loss"]).groups, learner="model")
    assert last["mean"] == 1.0 and pd.isna(last["step"])
    given = opened.summarise(step=50, measures=["loss"])
    assert only(given.groups, learner="model")["n"] == 1
    assert "1 runs were not evaluated at step 50 and are left out" in given.notes
    with pytest.raises(UserError, match="--step 40: no run was evaluated there; nearest: 0, 10, 50"):
        opened.summarise(step=40)


def test_best_is_each_runs_own(root: Path) -> None:
    with pytest.raises(UserError, match="no run has a best checkpoint"):
        summary(root, step="best")
    for (count, seed), step in zip(LOSSES, (0, 10, 100, 100, 100, 100, 100), strict=False):
        folder = root / identity(count, seed) / "checkpoints"
        folder.mkdir()
        (folder / "best.json").write_text(json.dumps({"step": step, "measure": "train/loss", "value": 0.0}))
    found = summary(root, step="best")
    assert only(found.groups, **{"task.count": 1}, learner="model", measure="loss")["mean"] == (3.0 + 3.0 + 3.0) / 3
    assert found.at.startswith("each run's best step by train/loss")
    assert "1 runs have no best checkpoint and are left out" in found.notes


# ---------------------------------------------------------------- differences


def test_paired_differences(root: Path) -> None:
    found = summary(root, pair="task.count=1,4", measures=["loss"])
    row = only(found.differences)
    known = stats.ttest_rel([2.5, 3.0, 5.0], [1.0, 2.0, 3.0])
    assert (row["first"], row["second"], row["difference"]) == (1, 4, pytest.approx(1.5))
    assert (row["p"], row["n"]) == (pytest.approx(known.pvalue), 3)
    assert (row["low"], row["high"]) == tuple(map(pytest.approx, known.confidence_interval(0.95)))
    back = only(summary(root, pair="task.count=4,1", measures=["loss"]).differences)
    assert back["difference"] == -row["difference"] and back["p"] == row["p"]


def test_every_level_against_the_first_and_who_has_no_partner(root: Path) -> None:
    found = summary(root, pair="task.count", measures=["loss"])
    assert [(r["first"], r["second"], r["n"]) for r in found.differences.to_dict("records")] == [
        (1, 4, 3),
        (1, "inf", 2),
    ]
    assert "task.count inf - 1: 1 runs have no partner and are left out" in found.notes


def test_pairs_along_the_seed_share_everything_else(root: Path) -> None:
    row = only(summary(root, pair="seed=0,1", measures=["loss"], over=["task.count", "seed"]).differences)
    assert row["difference"] == pytest.approx(np.mean([1.0, 0.5, 2.0])) and row["n"] == 3


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("task.cont", r"unknown axis 'task\.cont'; did you mean 'task\.count'"),
        ("task.count=1,5", r"--pair task\.count=1,5: task\.count has no level 5; it has 1, 4, inf"),
        ("task.count=1", r"expected task\.count=A,B with two different levels"),
        ("task.count=1,1", r"expected task\.count=A,B with two different levels"),
    ],
)
def test_wrong_pairs(root: Path, pair: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        summary(root, pair=pair)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"measures": ["los"]}, "unknown measure 'los'; did you mean 'loss'"),
        ({"sets": ["trian"]}, "unknown set 'trian'; did you mean 'train'"),
        ({"by": "position"}, "no loss or distance by position on train, gains; there is overall means"),
        ({"sets": ["gains"]}, "no loss or distance as an overall mean on gains; there is --by gain"),
    ],
)
def test_what_there_is_not(root: Path, asked: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        summary(root, **asked)


# ---------------------------------------------------------------- curves, tables of many runs


def test_curves_have_bands_and_one_company(root: Path) -> None:
    runs = inlearn.open_runs("known", root)
    table = curves(runs, Asked(measures=("loss",)))
    assert sorted(set(table["step"])) == list(STEPS) and set(table["set"]) == {"train"}
    row = only(table, **{"task.count": 4, "step": 10})
    low, high = stats.t.interval(0.95, 2, 4.5, stats.sem([3.5, 4, 6]))
    assert (row["mean"], row["low"], row["high"], row["n"]) == (4.5, pytest.approx(low), pytest.approx(high), 3)
    run_with(root, "f" * 12, {0: 9.0, 100: 1.0})
    two = [
        PlannedRun(identity(1, 0), {"seed": 0}, ("seed=0",), 100),
        PlannedRun("f" * 12, {"seed": 1}, ("seed=1",), 100),
    ]
    stored(root, two, "gap")
    assert sorted(curves(inlearn.open_runs("gap", root), Asked(measures=("loss",)))["step"]) == [0, 100]


def test_many_runs_are_one_table(root: Path) -> None:
    runs = inlearn.open_runs("known", root)
    assert len(runs) == 8 and list(runs.table.columns) == ["run", "task.count", "seed", "state", "step", "reason"]
    losses = runs.evaluations("loss", "train", learner="model")
    assert {(r["task.count"], r["seed"]): r["mean"] for r in losses[losses["step"] == 100].to_dict("records")} == LOSSES
    assert runs.query("select count(distinct run) from evaluations").iloc[0, 0] == 8
    with pytest.raises(UserError, match="unknown plan 'knwn'; did you mean 'known'"):
        inlearn.open_runs("knwn", root)
    with pytest.raises(UserError, match="there are no runs in"):
        inlearn.open_runs(root=root / "none")


def test_readings_of_a_plan_leave_other_runs_alone(root: Path) -> None:
    run_with(root, "f" * 12, {100: 99.0})
    values = read_values(inlearn.open_runs("known", root), Asked()).values
    assert "f" * 12 not in set(values["run"]) and values["mean"].max() < 99


# ---------------------------------------------------------------- a real sweep


@pytest.fixture(scope="module")
def swept(tiny, tmp_path_factory) -> Path:
    """Eight real runs of a second's work: counts 1, 4, 16, inf × two seeds, as a stored plan."""
    root = tmp_path_factory.mktemp("swept") / "runs"
    runs = []
    for count in (1, 4, 16, "inf"):
        for seed in range(2):
            words = (f"task.count={count}", f"seed={seed}")
            run = inlearn.run("regression", *tiny, *words, root=root)
            runs.append(PlannedRun(run.id, {"task.count": count, "seed": seed}, words, 60))
    stored(root, runs, "real")
    return root


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(monkeypatch, capsys):
    """`inlearn summarise …` in this process: importing everything anew for each would cost a second."""

    def call(root: Path, *words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["inlearn", "summarise", *words, "--runs", str(root)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Done(ended.value.code or 0, said.out, said.err)

    return call


def test_csv_and_json_hold_what_the_runs_say(command, swept: Path) -> None:
    done = command(swept, "real", "--as", "csv")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(io.StringIO(done.stdout), keep_default_na=False, na_values=[""], dtype={"task.count": str})
    for count in ("1", "4", "16", "inf"):
        row = only(table[table["set"] == "train"], **{"task.count": count}, learner="model", measure="loss")
        sql = (
            "select avg(mean) from evaluations join runs on run = id where set = 'train' and measure = 'loss' and "
            "\"by\" = '' and evaluations.step = 60 and (config->'study'->'task'->>'count') = ?"
        )
        assert row["mean"] == query(swept, sql, [count]).iloc[0, 0] and row["n"] == 2
    parsed = json.loads(command(swept, "real", "--as", "json", "--pair", "task.count").stdout)
    assert parsed["axes"] == ["task.count"] and {row["n"] for row in parsed["differences"]} == {2}
    assert (
        only(pd.DataFrame(parsed["groups"]), **{"task.count": 16}, set="train", learner="model", measure="loss")["n"]
        == 2
    )


def test_tables_to_read(command, swept: Path) -> None:
    done = command(swept, "real", "--measure", "loss", "--pair", "task.count=1,16")
    assert done.returncode == 0 and "95 % interval" in done.stdout and "paired: task.count 16 - 1" in done.stdout
    assert "4 groups by task.count, over seed; step 60" in done.stderr
    text = command(swept, "real", "--as", "markdown", "--by", "position", "--set", "train").stdout
    assert "| task.count | position | mean | std | 95 % interval | n |" in text
    done = command(swept, "real", "--as", "latex")
    assert done.stdout.count(r"\begin{tabular}") == done.stdout.count(r"\end{tabular}") == 4 and not done.stderr


def test_the_page_has_bands_axes_and_tables(command, swept: Path) -> None:
    done = command(swept, "real", "--as", "page", "--pair", "task.count")
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path == swept / ".plans" / "real" / "summary.html"
    page = path.read_text()
    for words in ("Loss on train against task.count", "Loss on train over training", "Distance to ridge on train over"):
        assert words in page
    assert "paired: task.count 16 - 1" in page and "1 of 4 groups have no loss on gaussian" in page
    figures = {figure.name for figure in (path.parent / "figures").iterdir()}
    assert {"loss-on-train-against-task-count.svg", "loss-on-train-over-training.svg"} <= figures
    before = path.read_bytes()
    assert (
        command(swept, "real", "--as", "page", "--pair", "task.count").returncode == 0 and path.read_bytes() == before
    )


def test_without_a_plan_runs_are_told_apart_by_their_configurations(swept: Path) -> None:
    runs = inlearn.open_runs(root=swept)
    assert set(runs.axes) == {"task.count", "seed"} and len(runs) == 8
    assert only(runs.summarise().groups, **{"task.count": 16}, set="train", learner="model", measure="loss")["n"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reel"], "inlearn: unknown plan 'reel'; did you mean 'real'?"),
        (["real", "--step", "soon"], "inlearn: --step soon: expected common, last, best or a number of updates"),
        (["real", "--measure", "lss"], "inlearn: unknown measure 'lss'; did you mean 'loss'?"),
        (["real", "--over", "sed"], "inlearn: unknown axis 'sed'; did you mean 'seed'?"),
    ],
)
def test_mistakes_are_told_in_one_line(command, swept: Path, words: list[str], message: str) -> None:
    done = command(swept, *words)
    assert (done.returncode, done.stderr.strip(), done.stdout) == (2, message, "")
