"""Campaigns of real runs: gates that let through, stop and rescue; killed and gone on with; few runs, and none."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from sweep_processes import wait_until

from inlearn.cli.main import main
from inlearn.core.errors import UserError
from inlearn.runs.folder import RunFolder, list_runs, names
from inlearn.runs.lines import read_lines
from inlearn.runs.metrics import evaluation_table
from inlearn.sweeps.campaign import read_campaign, read_seeds
from inlearn.sweeps.campaign_run import asked_for, check
from inlearn.sweeps.campaign_table import mark

RECALL = {
    **{"task.vocabulary": 8, "task.length": 12, "task.pairs": 2, "training.batch": 64, "training.rate": 0.01},
    **{"evaluation.rows": 64, "evaluation.pairs": [2, 3], "evaluation.pair_rows": 16},
    **{"model.width": 32, "model.heads": 1, "model.mlp": 0, "model.init": "uniform"},
    **{"record.evaluations": {"kind": "every", "steps": 30}, "record.checkpoints": {"kind": "every", "steps": 30}},
}
PROBE: dict[str, Any] = {
    "analysis": "probe",
    "set": {"rows": 64, "targets": "asked_value", "activations": "blocks.1.output", "controls": False},
    "at": {"network": "trained", "activation": "blocks.1.output", "target": "asked_value"},
}
CAMPAIGN: dict[str, Any] = {
    "study": "recall",
    "title": "Who learns to recall",
    "seeds": "1..3",
    "at": "last",
    "result": {"set": "train", "measure": "accuracy"},
    "beside": [{"set": "pairs", "measure": "accuracy", "at": {"pairs": 3}}],
    "speed": {"set": "train", "measure": "accuracy"},
    "gates": {"learned": {"least": 0.9}, "small": {"most": 0.5, "of": {"set": "train", "measure": "loss"}}},
    "set": RECALL,
    "experiments": [
        {"name": "strong", "phase": "1", "set": {"training.steps": 180}},
        {"name": "weak", "set": {"training.steps": 3}},
        {"name": "never", "set": {"training.steps": 4}, "after": {"strong": "learned", "weak": "learned"}},
        {"name": "rescue", "set": {"training.steps": 6}, "start": "strong@last", "fallback": {"weak": "learned"}},
        {"name": "unneeded", "set": {"training.steps": 7}, "fallback": {"strong": "learned"}},
        {"name": "child_of_never", "set": {"training.steps": 8}, "start": "never@last"},
    ],
    "questions": [
        {"ask": "Does length matter?", "note": "Of course.", "compare": [{"first": "weak", "second": "strong"}]},
        {"ask": "Is it needed?", "compare": [{"first": "strong", "second": "unneeded"}]},
        {"ask": "Is the value inside?", "compare": [{"first": "weak", "second": "strong", "analysed": PROBE}]},
    ],
}


def written(folder: Path, **changed: Any) -> str:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(CAMPAIGN | changed, sort_keys=False))
    return str(path)


def campaign(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """`inlearn campaign …` in this process; SystemExit where it fails."""
    monkeypatch.setattr(sys, "argv", ["inlearn", "campaign", *words, "engine.workers=1"])
    main_quietly()


def main_quietly() -> None:
    try:
        main()
    except SystemExit as left:
        if left.code not in (0, None):
            raise


def begin(*words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "inlearn.cli.main", "campaign", *words, "engine.workers=1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def table(root: Path, name: str = "experiments", campaign: str = "small") -> pd.DataFrame:
    return pd.read_csv(root / ".campaigns" / campaign / f"{name}.csv", keep_default_na=True)


def row(root: Path, experiment: str, campaign: str = "small") -> dict[str, Any]:
    found = table(root, campaign=campaign).set_index("experiment").loc[experiment]
    return found.to_dict()


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A root in which the campaign was carried out."""
    here = tmp_path_factory.mktemp("done")
    process = begin(written(here), "--runs", str(here / "runs"))
    said = process.communicate()
    assert process.returncode == 0, said
    (here / "said.txt").write_text("\n".join(said))
    return here / "runs"


# ---------------------------------------------------------------- gates


def test_gates_decide_what_is_carried_out(done):
    states = table(done).set_index("experiment")["state"].to_dict()
    assert states == {
        "strong": "3 finished",
        "weak": "3 finished",
        "never": "left out: weak: learned failed",
        "rescue": "3 finished",
        "unneeded": "left out: strong: learned passed, this is its fallback",
        "child_of_never": "left out: never was left out",
    }
    assert len(list_runs(done)) == 9 and {path.name for path in (done / ".plans").iterdir()} == {
        *("small.strong", "small.weak", "small.rescue", ".lock")
    }
    said = (done.parent / "said.txt").read_text()
    assert "weak: learned failed: accuracy on train" in said and "never is left out: weak: learned failed" in said
    kept = read_lines(done / ".campaigns" / "small" / "decisions.jsonl")
    assert [(line["experiment"], line["gate"], line["verdict"]) for line in kept] == [
        *(("strong", "learned", "passed"), ("strong", "small", "passed")),
        *(("weak", "learned", "failed"), ("weak", "small", "failed")),
        *(("rescue", "learned", "passed"), ("rescue", "small", "passed")),
    ]
    assert all(len(line["values"]) == 3 and line["needs"] == 3 for line in kept)


def test_a_start_is_the_run_of_the_same_seed(done):
    known = names(done)
    for seed in (1, 2, 3):
        child = RunFolder(done / known[f"rescue_run{seed}"])
        assert child.config["config"]["start"] == f"{known[f'strong_run{seed}']}@180"
        assert child.config["unhashed"]["seed"] == seed


def accuracies(root: Path, experiment: str) -> list[float]:
    """Of seeds 1, 2, 3 at the last step, as the runs wrote them down while training."""
    found = []
    for seed in (1, 2, 3):
        rows = evaluation_table(RunFolder(root / names(root)[f"{experiment}_run{seed}"]))
        rows = rows[(rows["learner"] == "model") & (rows["set"] == "train") & (rows["measure"] == "accuracy")]
        found.append(rows[rows["by"] == ""].sort_values("step")["mean"].iloc[-1])
    return found


def test_the_table_is_what_the_runs_say(done):
    for name in ("strong", "weak", "rescue"):
        values, found = accuracies(done, name), row(done, name)
        assert found["mean"] == pytest.approx(np.mean(values), abs=1e-6) and found["n"] == 3
        assert found["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
        assert found["mark"] == "below the plan's minimum of 5"
    values, found = accuracies(done, "weak"), row(done, "weak")
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found["low"], found["high"]) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))
    assert 0 < row(done, "strong")["updates"] < 180 and np.isnan(row(done, "strong")["epochs"])
    groups = table(done, "groups")
    sliced = groups[(groups["measure"] == "accuracy, pairs 3") & (groups["experiment"] == "strong")]
    assert set(sliced["learner"]) == {"model", "look_up", "values", "uniform"} and set(sliced["n"]) == {3}


def test_questions_are_differences_by_seed(done):
    first, second, probed = table(done, "answers").to_dict("records")
    pairs = np.subtract(accuracies(done, "strong"), accuracies(done, "weak"))
    assert first["difference"] == pytest.approx(pairs.mean(), abs=1e-6) and first["n"] == 3
    assert first["p"] == pytest.approx(stats.ttest_1samp(pairs, 0).pvalue, rel=1e-3)
    assert first["answer"].startswith("strong is higher than weak: +")
    assert second["n"] == 0 and second["answer"].startswith("not answered: unneeded was left out (strong: learned")
    assert probed["n"] == 3 and probed["difference"] > 0.2, probed
    folder = done / ".campaigns" / "small"
    assert "Does length matter?" in (folder / "campaign.html").read_text()
    assert (
        "| strong | 1 |" in (folder / "campaign.md").read_text()
        and "Of course." in (folder / "campaign.md").read_text()
    )
    assert json.loads((folder / "campaign.json").read_text())["answers"][0]["n"] == 3
    assert "</svg>" in (folder / "figures" / "accuracy-on-train.svg").read_text()


# ---------------------------------------------------------------- again, killed, grown


def content(root: Path) -> dict[str, bytes]:
    folder = root / ".campaigns" / "small"
    return {name: (folder / name).read_bytes() for name in ("experiments.csv", "groups.csv", "answers.csv")}


def test_a_label_that_no_analysis_has_hides_nothing_else(done, monkeypatch, capsys):
    asked = probing(at=PROBE["at"] | {"target": "nothing"})
    path = written(done.parent, name="odd", questions=[asked, *CAMPAIGN["questions"]])
    campaign(monkeypatch, path, "--runs", str(done))
    assert "target = nothing; expected one of asked_value" in capsys.readouterr().err
    answers = table(done, "answers", "odd")["answer"].tolist()
    assert answers[0].startswith("not answered: no run of weak has it") and answers[1].startswith("strong is higher")


def test_analyses_that_differ_in_a_key_are_answered_apart_and_no_label_is_ignored(done, monkeypatch, capsys):
    fewer = PROBE | {"set": PROBE["set"] | {"rows": 40}}
    asked = [probing(), probing(**fewer), probing(at=PROBE["at"] | {"layer": "1"})]
    path = written(done.parent, name="apart", questions=asked)
    campaign(monkeypatch, path, "--runs", str(done))
    answers = table(done, "answers", "apart")
    assert "rows=64" in answers["value"][0] and "rows=40" in answers["value"][1]
    assert answers["low"][0] != answers["low"][1]
    assert "unknown axis 'layer'" in capsys.readouterr().err and answers["n"].tolist() == [3, 3, 0]


def test_published_results_stand_beside_ours(done, monkeypatch, capsys):
    theirs = Path(__file__).parents[1] / "studies" / "automata" / "upstream"
    monkeypatch.setattr(sys, "argv", ["inlearn", "aggregate", str(theirs), "--campaign", "small", "--runs", str(done)])
    main_quietly()
    shown = capsys.readouterr().out
    assert "lstm_ablation" in shown and "strong" in shown and "inlearn" in shown


def test_twice_is_as_good_as_once(done, monkeypatch, capsys):
    before, logged = content(done), (done / ".campaigns" / "small" / "decisions.jsonl").read_bytes()
    campaign(monkeypatch, written(done.parent), "--runs", str(done))
    assert content(done) == before
    assert (done / ".campaigns" / "small" / "decisions.jsonl").read_bytes() == logged
    assert all(len(run.segments) == 1 for run in list_runs(done))
    campaign(monkeypatch, written(done.parent), "--runs", str(done), "--dry-run")
    shown = capsys.readouterr()
    assert "learned failed" in shown.out and "6 experiments of 3 seeds, at most 18 runs" in shown.err


def test_an_interrupted_and_a_killed_campaign_end_as_if_they_had_not_been(done, tmp_path, monkeypatch):
    words, root = (written(tmp_path), "--runs", str(tmp_path / "runs")), tmp_path / "runs"
    process = begin(*words)
    wait_until(lambda: len(list(root.glob("*/checkpoints/000000030"))) == 3, process, 120)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0 and "is not complete (interrupted): the same command goes on" in said
    process = begin(*words)
    wait_until(lambda: len(list(root.glob("*/checkpoints/000000120"))) == 3, process, 120)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not any(run.status.state == "running" for run in list_runs(root)))
    assert not (root / ".campaigns" / "small" / "experiments.csv").exists()
    campaign(monkeypatch, *words)
    assert content(root) == content(done)


@pytest.mark.parametrize(("seeds", "said"), [("1", "insufficient"), ("1,2", "insufficient")])
def test_gates_that_see_too_few_runs_decide_nothing(done, monkeypatch, seeds, said):
    n = len(seeds.split(","))
    name = f"few{n}"
    campaign(monkeypatch, written(done.parent), "--runs", str(done), "--name", name, "--seeds", seeds)
    states = table(done, campaign=name).set_index("experiment")["state"].to_dict()
    assert states["never"] == "left out: strong: learned undecided"
    assert states["rescue"] == "left out: weak: learned undecided, this is its fallback"
    found = row(done, "strong", name)
    assert found["n"] == n and found["mark"] == said and np.isnan(found["low"]) == (n == 1)
    answer = table(done, "answers", name).iloc[0]
    assert answer["n"] == n and answer["answer"].startswith("not answered")
    assert names(done)[f"{name}.strong_run1"] == names(done)["strong_run1"]  # the same run, found again


def test_a_campaign_may_grow_and_gates_are_decided_anew(done, monkeypatch):
    words = (written(done.parent), "--runs", str(done), "--name", "grown")
    for seeds in ("1", "1..3"):
        campaign(monkeypatch, *words, "--seeds", seeds)
    states = table(done, campaign="grown").set_index("experiment")["state"].to_dict()
    assert states["rescue"] == "3 finished" and states["never"] == "left out: weak: learned failed"
    kept = read_lines(done / ".campaigns" / "grown" / "decisions.jsonl")
    verdicts = [line["verdict"] for line in kept if (line["experiment"], line["gate"]) == ("strong", "learned")]
    assert verdicts == ["undecided", "passed"]
    assert all(len(run.segments) == 1 for run in list_runs(done))  # nothing was trained again


def test_renewed_parents_renew_what_begins_with_them(lookup, tmp_path):
    study, source = tmp_path / "mine.py", Path(lookup).read_text()
    preset = '\nPRESETS = {"p": {"training": {"steps": %d, "batch": 8}}}\n'
    document = {
        **{"study": "mine.py", "seeds": "1..2", "at": "last", "result": {"set": "train", "measure": "loss"}},
        "set": {"preset": "p", "model.width": 8, "model.layers": 1, "model.heads": 1},
        "experiments": [{"name": "parent"}, {"name": "child", "set": {"training.rate": 0.01}, "start": "parent@last"}],
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(document))
    words, root = (str(tmp_path / "small.yaml"), "--runs", str(tmp_path / "runs")), tmp_path / "runs"
    for steps, more in ((4, ()), (6, ("--renew",))):
        study.write_text(source + preset % steps)
        process = begin(*words, *more)
        said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        plan = read_lines(root / ".plans" / "small.child" / "runs.jsonl")
        assert len(plan) == 2 and [run["last"] for run in plan] == [steps] * 2
    parents = {run["id"] for run in read_lines(root / ".plans" / "small.parent" / "runs.jsonl")}
    begun = {text.partition("=")[2] for run in plan for text in run["overrides"] if text.startswith("start=")}
    assert begun == {f"{id}@last" for id in parents}
    assert {names(root)[f"parent_run{seed}"] for seed in (1, 2)} == parents
    assert len(list_runs(root)) == 8  # those before are there still, by their ids


def test_marks_of_groups():
    assert [mark(n, 5) for n in (0, 1, 2, 3, 4, 5)] == ["insufficient"] * 3 + ["below the plan's minimum of 5"] * 2 + [
        ""
    ]


def test_failing_runs_leave_a_gate_undecided_and_are_told(tmp_path, monkeypatch, capsys):
    words = written(tmp_path, experiments=CAMPAIGN["experiments"][:1], questions=[])
    with pytest.raises(SystemExit) as left:
        campaign(monkeypatch, words, "training.rate=1e30", "training.optimiser=sgd", "--runs", str(tmp_path / "runs"))
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert "3 failed" in said and "strong: learned undecided: 0 runs have accuracy on train, the gate needs 3" in said
    found = row(tmp_path / "runs", "strong")
    assert found["n"] == 0 and found["mark"] == "insufficient" and np.isnan(found["mean"])
    assert (tmp_path / "runs" / ".campaigns" / "small" / "campaign.html").exists()


# ---------------------------------------------------------------- mistakes


def test_a_dry_run_on_an_empty_root_makes_nothing(tmp_path, monkeypatch, capsys):
    campaign(monkeypatch, written(tmp_path), "--runs", str(tmp_path / "none"), "--dry-run", "--seeds", "1..5")
    assert "6 experiments of 5 seeds, at most 30 runs" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def experiments(*changed: dict[str, Any]) -> dict[str, Any]:
    return {"experiments": [{"name": "a"}, *changed], "questions": []}


def probing(**changed: Any) -> dict[str, Any]:
    return {"ask": "?", "compare": [{"first": "weak", "second": "strong", "analysed": PROBE | changed}]}


@pytest.mark.parametrize(
    ("changed", "words", "said"),
    [
        ({"study": "recal"}, [], "did you mean 'recall'"),
        (
            {"result": {"set": "trian", "measure": "accuracy"}},
            [],
            "did you mean 'train'?",
        ),
        ({"result": {"set": "train", "measure": "acuracy"}}, [], "did you mean 'accuracy'"),
        (
            {"beside": [{"set": "train", "measure": "loss", "at": {"pair": 2}}]},
            [],
            "loss on train is not sliced by pair",
        ),
        ({"speed": {"set": "train", "measure": "accuracy", "share": 2}}, [], "speed.share = 2"),
        ({"gates": {"learned": {}}}, [], "a gate needs either least or most"),
        ({"gates": {"learned": {"least": 1, "runs": 0}}}, [], "gates.learned.runs = 0"),
        (
            experiments({"name": "b", "after": {"c": "learned"}}),
            [],
            "expected an experiment before it: a",
        ),
        (experiments({"name": "b", "after": {"a": "lerned"}}), [], "did you mean 'learned'"),
        (experiments({"name": "a"}), [], "another experiment has this name"),
        (experiments({"name": "b", "start": "a"}), [], "experiments.1.start = a"),
        (experiments({"name": "b", "set": {"seed": 3}}), [], "seed is given by the campaign"),
        (experiments({"name": "b", "sett": {}}), [], "did you mean 'experiments.1.set'"),
        (experiments({"name": "b", "set": {"model.widht": 3}}), [], "experiment b: unknown key 'model.widht'"),
        (experiments({"name": "b"}), [], "experiments a and b ask for the same run"),
        ({"questions": [{"ask": "?", "compare": [{"first": "strong", "second": "wek"}]}]}, [], "did you mean 'weak'"),
        ({"questions": [probing(set={"tragets": "x"})]}, [], "did you mean 'targets'"),
        ({"questions": [probing(analysis="prob")]}, [], "did you mean 'probe'"),
        ({"questions": [probing(array=3)]}, [], "questions.0.compare.0.analysed.array = 3"),
        ({"seeds": []}, [], "seeds = []"),
        ({"at": "best", "set": RECALL | {"record.best": "none"}}, [], "at = best needs record.best"),
        ({}, ["--seeds", "5..1"], "seeds = 5..1: expected 1..5"),
        ({}, ["--seeds", "1,1"], "seeds = 1,1"),
        ({}, ["seed=3"], "seed=3: a campaign gives seed itself; expected --seeds 1..5"),
        ({}, ["name=x"], "a campaign gives name itself"),
        ({}, ["--name", "../x"], "--name ../x: expected"),
        ({}, ["training.stesp=3"], "did you mean 'training.steps'"),
        ({}, ["engine=slrm"], "did you mean 'slurm'"),
        ({}, ["training.steps=5"], "ask for the same run"),
    ],
)
def test_mistakes_are_refused_before_anything_is_made(tmp_path, monkeypatch, capsys, changed, words, said):
    with pytest.raises(SystemExit) as left:
        campaign(monkeypatch, written(tmp_path, **changed), *words, "--runs", str(tmp_path / "runs"))
    shown = capsys.readouterr().err
    assert left.value.code == 2 and said in shown and "Traceback" not in shown, shown
    assert not (tmp_path / "runs").exists()


def test_another_campaign_under_the_same_name_is_refused(done, monkeypatch, capsys):
    for words in (["model.layers=1"], ["--seeds", "1..2"]):
        with pytest.raises(SystemExit) as left:
            campaign(monkeypatch, written(done.parent), *words, "--runs", str(done))
        assert left.value.code == 2 and "choose another name with --name" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "said"), [("- 1", "expected a mapping"), ("a: [", "is not YAML"), ("", "expected a")])
def test_files_that_are_no_campaign(tmp_path, text, said):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_campaign(str(tmp_path / "x.yaml"))
    with pytest.raises(UserError, match="no such file"):
        read_campaign(str(tmp_path / "y.yaml"))
    with pytest.raises(UserError, match="study recall has no campaign"):
        read_campaign("recall")


@pytest.mark.parametrize("which", ["guide", "automata"])
def test_campaigns_that_are_shown_or_come_along_can_be_carried_out(tmp_path, which):
    if which == "guide":
        text = (Path(__file__).parents[2] / "docs" / "guides" / "campaigns.md").read_text()
        (tmp_path / "mine.yaml").write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    asked = asked_for(read_campaign(str(tmp_path / "mine.yaml") if which == "guide" else "automata"), (1, 2), [])
    every = check(asked, tmp_path / "none")
    assert len(every) == len(asked.campaign.experiments) and all(len(runs) == 2 for runs in every)


def test_seeds():
    assert read_seeds("1..5") == (1, 2, 3, 4, 5) and read_seeds(" 7 , 2") == (7, 2) and read_seeds("3") == (3,)
    for text in ("", "1..", "5..1", "1..5000", "1,,2", "a", "-1", "2,2"):
        with pytest.raises(UserError, match=r"expected 1\.\.5"):
            read_seeds(text)
