"""Sweeps at equal numbers of parameters: model.match_params as a value and as an axis."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import inlearn
from inlearn.cli.main import main
from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.config import compose
from inlearn.sweeps.engines.config import LocalConfig
from inlearn.sweeps.plan import Plan, with_overrides
from inlearn.sweeps.planned import PlannedRun, planned
from inlearn.sweeps.sweep import sweep
from inlearn.sweeps.wandb import export

FOUND = discovery.study("regression")
SHORT = (
    *("task.dimension=2", "task.examples=3", "training.batch=4", "training.steps=3"),
    *("evaluation.rows=8", "evaluation.gain_rows=4"),
)
RECURRENT = ("model=lstm,gru", "model.layers=1")


def plan_of(*words: str) -> Plan:
    return with_overrides(Plan(study="regression", name="test"), words)


def runs_of(root: Path, *words: str) -> tuple[list[PlannedRun], list[str]]:
    return planned(plan_of(*words), root)


def width(*words: str) -> int:
    return compose(FOUND, words).model.width


def test_a_value_for_several_models_resolves_for_each_and_is_said_for_each(tmp_path):
    runs, remarks = runs_of(tmp_path, *RECURRENT, "model.match_params=3000", "seed=range(2)")
    widths = {kind: width(f"model={kind}", "model.layers=1", "model.match_params=3000") for kind in ("lstm", "gru")}
    assert len(set(widths.values())) == 2
    assert [run.axes for run in runs] == [
        {"model": kind, "seed": seed, "model.width": widths[kind]} for kind in ("lstm", "gru") for seed in (0, 1)
    ]
    assert [remark.partition(":")[0] for remark in remarks] == ["lstm", "gru"], "each once, whatever the seed"
    assert f"model.width = {widths['gru']}: " in remarks[1] and "(asked for 3,000, " in remarks[1]


def test_an_axis_shows_what_was_asked_beside_the_width(tmp_path):
    runs, _ = runs_of(tmp_path, "model=gru", "model.match_params=1000,3000")
    assert [run.axes for run in runs] == [
        {"model.match_params": asked, "model.width": width("model=gru", f"model.match_params={asked}")}
        for asked in (1000, 3000)
    ]


def test_points_that_mean_one_width_are_one_run(tmp_path):
    asked = width("model=gru", "model.match_params=3000")
    runs, remarks = runs_of(tmp_path, "model=gru", "model.match_params=3000,3001")
    assert len(runs) == 1 and "2 points are 1 run" in remarks
    [same], _ = runs_of(tmp_path, "model=gru", f"model.width={asked}")
    assert same.id == runs[0].id


def test_a_plan_that_gives_both_or_an_impossible_number_is_refused(tmp_path):
    for words in (["model.width=8", "model.match_params=3000"], ["model.match_params=3000,4000", "model.width=8,9"]):
        with pytest.raises(UserError, match="the first picks the second"):
            runs_of(tmp_path, "model=gru", *words)
    with pytest.raises(UserError, match=r"= 3: expected at least .* \(at model\.match_params=3\)"):
        runs_of(tmp_path, "model=gru", "model.match_params=3,3000")


def test_a_wandb_sweep_hands_it_on(tmp_path):
    document = export(plan_of("model=gru", "model.match_params=1000,3000"))
    assert document["parameters"]["model.match_params"] == {"values": [1000, 3000]}


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    plan = plan_of(*SHORT, *RECURRENT, "model.match_params=500,1500", "seed=range(2)")
    outcome = sweep(plan, LocalConfig(workers=1), root, lambda text: None)
    assert outcome.problem() is None
    return root


def test_models_of_equal_size_are_compared_pair_by_pair(swept):
    """The width tells the models apart as well: pairs and groups are made without it, and groups show it."""
    runs = inlearn.open_runs("test", swept)
    assert runs.axes == ["model", "model.match_params", "seed"] and runs.resolved == ["model.width"]
    assert list(runs.table.columns[:5]) == ["run", "model", "model.match_params", "seed", "model.width"]
    summary = runs.summarise(pair="model=lstm,gru", sets=("train",), measures=("loss",))
    assert not summary.notes and summary.axes == ["model", "model.match_params"]
    assert list(summary.differences["model.match_params"]) == [500, 1500] and set(summary.differences["n"]) == {2}
    shown = summary.groups[summary.groups["learner"] == "model"][["model", "model.match_params", "model.width", "n"]]
    expected = [
        [kind, asked, width(*SHORT, f"model={kind}", "model.layers=1", f"model.match_params={asked}"), 2]
        for kind in ("lstm", "gru")
        for asked in (500, 1500)
    ]
    assert shown.values.tolist() == expected


def test_a_group_of_several_widths_shows_none(swept):
    groups = inlearn.open_runs("test", swept).summarise(over=("model", "seed")).groups
    assert set(groups["model.match_params"]) == {500, 1500} and set(groups["model.width"]) == {None}


def test_tables_of_the_plan_show_the_widths(swept, capsys, monkeypatch):
    asked = [*SHORT, *RECURRENT, "model.match_params=500,1500", "seed=range(2)", "--name", "test", "--dry-run"]
    for words in (["status", "test"], ["summarise", "test"], ["sweep", "regression", *asked]):
        monkeypatch.setattr(sys, "argv", ["inlearn", *words, "--runs", str(swept)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert not end.value.code, err
        assert "model.match_params" in out and "model.width" in out, words
