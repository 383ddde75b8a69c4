"""Every verb as a user calls it, on one small run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from inlearn.cli.main import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny):
    from inlearn.lab.session import start

    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        start("regression", [*tiny, f"seed={seed}", f"name=tiny{seed}"], root, lambda text: None)
    return root


@pytest.fixture
def printed(capsys, monkeypatch):
    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["inlearn", *words])
        try:
            main()
        except SystemExit as end:
            assert not end.code, capsys.readouterr().err
        return capsys.readouterr().out

    return call


def test_what_there_is_to_know(printed):
    assert "regression" in printed("studies")
    assert "paper-lr" in printed("presets", "regression")
    assert "51,717" in printed("models", "regression", "preset=paper-lr")
    assert "4.125" in printed("describe", "regression", "preset=paper-lr")
    assert "regression/floors" in printed("claims")
    assert "inlearn" in printed("--version")
    assert "gradients in float32" in printed("doctor")


def test_prepare_says_that_there_is_nothing_to_do(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["inlearn", "prepare", "regression"])
    with pytest.raises(SystemExit):
        main()
    assert "nothing to prepare" in capsys.readouterr().err


def test_looking_at_runs(printed, runs):
    where = ("--runs", str(runs))
    listed = printed("ls", *where)
    assert "tiny0" in listed and "finished" in listed and "60/60" in listed
    shown = printed("show", "tiny0", *where)
    assert "finished at step 60" in shown and "noise_variance" in shown and "ridge" in shown
    assert "is whole" in printed("verify", "tiny1", *where)
    evaluated = printed("evaluate", "tiny0@best", "--sets", "effective_weight", *where)
    assert "weight_cosine" in evaluated
    assert "position 2" in printed("evaluate", "tiny0@15", "--slices", *where)


def test_tables(printed, runs):
    where = ("--runs", str(runs))
    sql = "select name, count(*) as lines from training join runs on runs.id = training.run group by name order by name"
    assert json.loads(printed("table", sql, "--as", "json", *where)) == [
        {"name": "tiny0", "lines": 8},
        {"name": "tiny1", "lines": 8},
    ]
    assert printed("table", sql, "--as", "csv", *where) == "name,lines\ntiny0,8\ntiny1,8\n"
    assert "| tiny0 | 8 |" in printed("table", sql, "--as", "markdown", *where)
    sql = "select mean from evaluations where step = 60 and measure = 'loss' and \"by\" = '' and set = 'train'"
    assert len(json.loads(printed("table", sql, "--as", "json", *where))) == 2
    assert "tiny0" in printed("table", "select * from runs", *where)


def test_reports_and_comparisons(printed, runs, tmp_path):
    where = ("--runs", str(runs))
    path = printed("report", "tiny0", *where).strip()
    text = Path(path).read_text()
    assert "Where is the model heading?" in text and "http://" not in text.replace("http://www.w3.org", "")
    page = tmp_path / "two.html"
    compared = printed("compare", "tiny0", "tiny1", "--page", str(page), *where)
    assert "seeds.data" in compared and page.exists()
    page = tmp_path / "data.html"
    printed("describe", "regression", "--page", str(page))
    assert page.exists()


def test_a_dry_run_prints_the_id_and_trains_nothing(printed, runs, tiny, tmp_path):
    import yaml

    plan = yaml.safe_load(printed("run", "regression", *tiny, "seed=1", "--dry-run", "--runs", str(tmp_path)))
    assert (runs / plan["id"]).exists() and not list(tmp_path.iterdir())


def test_reproducing_a_claim(printed, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "pass" in printed("reproduce", "regression/parameters", "--runs", str(runs))
    result = json.loads((tmp_path / "results/claims/regression/parameters.json").read_text())
    assert result["passed"] and result["checks"][0]["ours"] == 51717
    assert "pass" in printed("claims")


def test_completion_knows_studies_keys_presets_and_runs(runs, monkeypatch):
    from types import SimpleNamespace

    from inlearn.cli import common

    monkeypatch.setenv("INLEARN_RUNS", str(runs))
    assert common.complete_studies("reg") == ["regression"]
    assert common.complete_runs("tiny") == ["tiny0", "tiny1"]
    context = SimpleNamespace(params={"study": "regression"})
    assert "task.count=" in common.complete_overrides(context, "task.")
    assert "training.schedule.half_life=" in common.complete_overrides(context, "training.schedule.")
    assert "preset=paper-lr" in common.complete_overrides(context, "preset=pap")
