"""The published project's JSON files, one of each schema (`upstream/`), and what a folder may hold beside them."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from inlearn.cli.main import main
from inlearn.core.errors import UserError
from inlearn.studies.automata.upstream import epochs_to, read

GOLDEN = Path(__file__).parent / "upstream"


def aggregate(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["inlearn", "aggregate", *words])
    try:
        main()
    except SystemExit as left:
        if left.code not in (0, None):
            raise


def of(table: pd.DataFrame, **values: str) -> pd.DataFrame:
    for key, value in values.items():
        table = table[table[key] == value]
    return table


def test_every_schema_is_read():
    found = read([GOLDEN])
    assert {one.schema for one in found.runs} == {"training", "probe", "aggregator", "ablation"}
    long = found.long
    assert of(long, schema="probe", set="test", measure="accuracy")["value"].tolist() == [0.9987]
    assert of(long, schema="probe")["experiment"].unique().tolist() == ["linear_probe_lstm_5s5a"]
    assert of(long, experiment="vanilla_rnn_5s5a", measure="loss")["value"].tolist() == [1.1, 1.0]
    assert of(long, experiment="lstm_ablation", set="test")["value"].tolist() == [0.91, 0.95]
    assert of(long, experiment="lstm_ablation", set="query_600")["value"].tolist() == pytest.approx([0.81, 0.85])
    assert set(long["parameters"].dropna()) == {1059328, 68224, 1285, 266496}


def test_of_one_name_the_latest_counts_and_the_other_is_told():
    found = read([GOLDEN])
    runs = of(found.long, experiment="lstm_5s5a", set="test")
    assert dict(zip(runs["run"], runs["value"], strict=True)) == {"1": 0.9975, "2": 0.9965, "3": 0.84}
    (told,) = [note for note in found.notes if "is replaced by" in note]
    assert told.index("lstm_5s5a_run1_metrics.json") < told.index("lstm_5s5a_run1_again_metrics.json")


def test_runs_without_a_save_name_are_told_apart_by_their_time():
    runs = of(read([GOLDEN]).long, experiment="5s8a_lstm", set="test")
    assert sorted(runs["run"]) == ["20251201_090000", "20251201_120000"]


def test_a_summarys_copy_of_a_run_is_no_second_run():
    found = read([GOLDEN])
    assert len([one for one in found.runs if one.schema == "ablation"]) == 2
    alone = read([GOLDEN / "results" / "lstm_ablation"])
    assert {one.config for one in alone.runs} == {one.config for one in found.runs if one.schema == "ablation"}


def test_configurations_are_never_mixed():
    found = read([GOLDEN])
    groups = of(found.groups, experiment="lstm_5s5a", set="test", measure="accuracy")
    assert sorted(zip(groups["n"], groups["mean"], strict=True)) == [(1, 0.84), (2, pytest.approx(0.997))]
    (told,) = [note for note in found.notes if note.startswith("lstm_5s5a has 2 configurations")]
    assert "model_config.d_model" in told and "training_config.num_epochs" in told


def test_what_is_unfinished_is_skipped_with_the_reason():
    notes = read([GOLDEN]).notes
    (one,) = [note for note in notes if "run4" in note]
    assert "unfinished" in one and "after 2 of 4 epochs" in one
    assert any("run5" in note and "not whole JSON" in note for note in notes)
    assert any("aggregated_results.json is skipped: it has no known schema" in note for note in notes)


def test_groups_have_mean_std_interval_and_epochs():
    groups = of(read([GOLDEN]).groups, experiment="5s8a_lstm", set="test")
    (row,) = groups.to_dict("records")
    low, high = stats.t.interval(0.95, 1, 0.985, stats.sem([0.98, 0.99]))
    assert (row["mean"], row["n"], row["min"], row["max"]) == (pytest.approx(0.985), 2, 0.98, 0.99)
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert row["std"] == pytest.approx(0.01 / 2**0.5) and row["epochs_to_90"] == 3
    assert epochs_to([0.2, 0.9, 1.0]) == 2 and epochs_to([]) is None


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_runs_are_marked(tmp_path, monkeypatch, capsys, n):
    first = json.loads((GOLDEN / "results" / "aggregator" / "run_1.json").read_text())
    for k in range(n):
        (tmp_path / f"run_{k}.json").write_text(json.dumps(first))
    aggregate(monkeypatch, str(tmp_path), "--as", "csv")
    table = pd.read_csv(io.StringIO(capsys.readouterr().out), keep_default_na=False)
    assert table["n"].tolist() == [n, n] and set(table["mark"]) == {"" if n == 5 else "insufficient"}
    assert (table["low"] == "").all() == (n == 1)


def test_an_empty_folder_is_no_mistake(tmp_path, monkeypatch, capsys):
    aggregate(monkeypatch, str(tmp_path))
    said = capsys.readouterr()
    assert said.out == "" and f"nothing found in {tmp_path}" in said.err


def test_every_form(monkeypatch, capsys):
    aggregate(monkeypatch, str(GOLDEN))
    assert "insufficient" in capsys.readouterr().out
    aggregate(monkeypatch, str(GOLDEN), "--each", "--as", "markdown")
    assert "| lstm_5s5a |" in capsys.readouterr().out
    aggregate(monkeypatch, str(GOLDEN), "--as", "json")
    assert {row["source"] for row in json.loads(capsys.readouterr().out)} == {"published project"}


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "3", "{}", '{"runs": [1], "architecture": {}}', "[" * 100_000),
        '{"experiment": 1, "final_results": {"test_accuracy": NaN}}',
        '{"experiment": 1, "final_results": {"test_accuracy": "high"}}',
        '{"experiment_name": "x", "test_results": [1]}',
        '{"stage_metrics": 3}',
        '{"run_id": 0, "initial_test_accuracy": null, "stage_metrics": [[]]}',
    ],
)
def test_anything_else_is_skipped(tmp_path, content):
    (tmp_path / "run_1.json").write_text(content)
    found = read([tmp_path])
    assert not found.runs and len(found.notes) == 1 and "is skipped: " in found.notes[0]


def test_one_bad_run_of_a_summary_does_not_hide_the_others(tmp_path):
    good = {"run_id": 1, "initial_test_accuracy": 0.5}
    (tmp_path / "summary.json").write_text(json.dumps({"architecture": {}, "runs": [3, good, {"run_id": 2}]}))
    found = read([tmp_path])
    assert [one.run for one in found.runs] == [f"{tmp_path.name}/1"] and len(found.notes) == 2


@pytest.mark.parametrize(
    "content",
    [
        '{"experiment": "x", "final_results": {"test_accuracy": 0.5}, "model_config": [1], "training_history": 3}',
        '{"initial_test_accuracy": 0.5, "stage_metrics": 3, "query_length_results": {"200": 1, "300": {}}}',
        '{"initial_test_accuracy": 0.5, "stage_metrics": [[3, {"val_acc": "x"}], 4]}',
        '{"experiment": "x", "training_history": {"val_accs": [null]}, "final_results": {"test_accuracy": 1}}',
        '{"initial_test_accuracy": 0.5, "num_parameters": "18k", "query_length_results": {"200": {"acc": true}}}',
        f'{{"experiment": "x", "parameters": {10**30}, "final_results": {{"test_accuracy": 1}}}}',
        f'{{"experiment": "x", "final_results": {{"test_accuracy": 1, "val_accuracy": {10**400}}}}}',
    ],
)
def test_odd_parts_of_a_result_are_left_out(tmp_path, content):
    (tmp_path / "run_1.json").write_text(content)
    found = read([tmp_path])
    assert [(row.set, row.measure) for row in found.long.itertuples()] == [("test", "accuracy")]
    assert len(found.groups) == 1


def test_mistakes(tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="no such folder"):
        read([tmp_path / "none"])
    for words, said in (
        (["--campaign", "automta"], "unknown campaign 'automta'"),
        (["--campaign", "x", "--each"], "expected one of them"),
    ):
        with pytest.raises(SystemExit) as left:
            aggregate(monkeypatch, str(GOLDEN), *words, "--runs", str(tmp_path))
        assert left.value.code == 2 and said in capsys.readouterr().err


def test_a_large_file_and_one_that_cannot_be_read(tmp_path):
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate((1 << 26) + 1)
    (tmp_path / "dangling.json").symlink_to(tmp_path / "none")
    (tmp_path / "folder.json").mkdir()
    shutil.copy(GOLDEN / "results" / "aggregator" / "run_1.json", tmp_path)
    found = read([tmp_path])
    assert len(found.runs) == 1 and len(found.notes) == 3
