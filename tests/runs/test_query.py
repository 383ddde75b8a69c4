from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from inlearn.core.errors import UserError
from inlearn.runs.folder import RunFolder
from inlearn.runs.lines import MetricsWriter, truncate
from inlearn.runs.metrics import evaluation_table
from inlearn.runs.query import query


def filled_run(root: Path, number: int, name: str | None = None) -> RunFolder:
    id = f"{number:012x}"
    config = {"seed": number, "model": {"kind": "transformer", "width": 64}}
    stored = {"id": id, "config": config, "unhashed": {"name": name, "preset": "demo"}}
    run = RunFolder.create(root, id, stored, {"kind": "regression"}, name)
    metrics, references = (MetricsWriter(run.path / file) for file in ("metrics.jsonl", "references.jsonl"))
    what = {"set": "train", "measure": "loss", "reference": None, "unit": "squared error"}
    floor = {"by": [], "at": [[]], "mean": [1.5], "se": [None], "n": [8]}
    references.write({"event": "evaluation", "learner": "ridge"} | what | floor)
    for step in (1, 2):
        line = {"step": step, "loss": number + step / 4, "rate": 0.5, "gradient_norm": 2.0, "phase": 0}
        metrics.write({"event": "training"} | line | {"tokens": 7})
        levels = {"by": ["gain", "position"], "at": [[3, 0], [3, 1]], "mean": [1.0, number], "se": [0.5, None]}
        metrics.write({"event": "evaluation", "step": step, "learner": "model"} | what | levels | {"n": [8, 9]})
    metrics.close()
    references.close()
    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "odd [name] with 'quotes' and *"
    filled_run(place, 1, "first")
    second = filled_run(place, 2)
    second.set_status("finished", 2, "all done")
    return place


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.to_dict("records")


def test_runs_are_one_row_each(root: Path) -> None:
    columns = "id, name, study, state, step, reason, seed, model, preset, config->'model'->>'width' as width"
    first, second = records(query(root, f"select {columns} from runs order by id"))
    common = {"study": "regression", "model": "transformer", "preset": "demo", "width": "64"}
    assert first == common | {"id": f"{1:012x}", "name": "first", "state": "new", "step": 0, "reason": "", "seed": 1}
    assert second | {"name": None} == common | {"id": f"{2:012x}", "name": None, "seed": 2} | {
        "state": "finished",
        "step": 2,
        "reason": "all done",
    }


def test_training_lines_of_all_runs(root: Path) -> None:
    table = query(root, "select run, max(step) as step, min(loss) as loss from TRAINING group by run order by run")
    assert records(table) == [{"run": f"{i:012x}", "step": 2, "loss": i + 0.25} for i in (1, 2)]


def test_evaluations_are_the_long_table(root: Path) -> None:
    run = RunFolder.open(root, "first")
    found = query(root, f"select * from evaluations where run = '{run.id}' order by step nulls first, level")
    expected = evaluation_table(run)
    assert list(found.columns) == list(expected.columns)
    assert [tuple(level) for level in found["level"]] == expected["level"].tolist()
    assert found["step"].isna().tolist() == [True, False, False, False, False]
    for name in ("set", "learner", "measure", "unit", "by"):
        assert found[name].tolist() == expected[name].tolist()
    for name in ("mean", "se", "n"):
        assert np.array_equal(found[name].to_numpy(float), expected[name].to_numpy(float), equal_nan=True)
    assert found["reference"].isna().all()


def test_tables_join(root: Path) -> None:
    joined = "evaluations join runs on run = id"
    sql = f"select seed, mean from {joined} where level[2] = 1 and evaluations.step = 2 order by 1"
    assert records(query(root, sql)) == [{"seed": 1, "mean": 1.0}, {"seed": 2, "mean": 2.0}]


@pytest.mark.parametrize("table", ["runs", "training", "evaluations"])
def test_without_runs_the_tables_are_empty_and_have_their_columns(root: Path, tmp_path: Path, table: str) -> None:
    for place in (tmp_path / "none", tmp_path):
        empty = query(place, f"select * from {table}")
        assert len(empty) == 0 and list(empty.columns) == list(query(root, f"select * from {table}").columns)
    assert not (tmp_path / "none").exists()
    started = RunFolder.create(tmp_path / "new", "0" * 12, {"id": "0" * 12, "config": {}}, {"kind": "regression"})
    assert len(query(started.path.parent, f"select * from {table}")) == (table == "runs")


def test_half_a_last_line_is_left_out(root: Path) -> None:
    with (RunFolder.open(root, "first").path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"event":"training","step":3,"lo')
    assert query(root, "select count(*) from training").iloc[0, 0] == 4
    assert query(root, "select count(*) from evaluations").iloc[0, 0] == 10


def test_a_damaged_run_is_listed_and_hides_no_other(root: Path) -> None:
    (RunFolder.open(root, "first").path / "config.json").write_text("{")
    first, second = records(query(root, "select state, reason, seed from runs order by id"))
    assert first["state"] == "damaged" and "config.json is damaged" in first["reason"] and first["seed"] != 1
    assert second["seed"] == 2


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select los from training", 'Binder Error: Referenced column "los" not found'),
        ("nonsense", "Parser Error"),
        ("select * from read_text('/etc/passwd')", "Permission Error"),
        ("copy (select 1) to '{root}/out.csv'", "Permission Error"),
        ("copy runs to '{root}/out.csv'", "Permission Error"),
        ("attach '{root}/out.db'", "Permission Error"),
        ("select * from read_json('{root}/*/metrics.jsonl')", "Permission Error"),
        ("install httpfs", "Permission Error|IO Error"),
        ("set enable_external_access = true", "Invalid Input Error"),
        ("select * from frame", "Catalog Error"),
    ],
)
def test_what_sql_may_not_do_is_refused_in_one_line(tmp_path: Path, sql: str, message: str) -> None:
    frame = pd.DataFrame({"a": [1]})  # a Python variable is no table
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=f"^SQL: ({message})") as error:
        query(tmp_path, sql.replace("{root}", str(tmp_path)))
    assert "\n" not in str(error.value) and len(frame) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_query_reads_the_metrics_and_never_writes_them(root: Path) -> None:
    """A SELECT is given leave to open the runs' own files; nothing may use that leave to write."""
    path = RunFolder.open(root, "first").path / "metrics.jsonl"
    before, quoted = path.read_bytes(), str(path).replace("'", "''")
    for sql in (
        f"copy (select * from training) to '{quoted}'",
        f"select 1 from training; copy training to '{quoted}'",
        f"explain analyze copy training to '{quoted}'",
        f"copy (pivot training on run using avg(loss)) to '{quoted}'",
        f"prepare x as copy training to '{quoted}'; execute x",
    ):
        with pytest.raises(UserError, match=r"^SQL: (Permission|Invalid|Parser|Catalog)"):
            query(root, sql)
        assert path.read_bytes() == before


def test_what_is_more_than_a_select_still_sees_the_tables(root: Path) -> None:
    wide = query(root, "pivot (select run, step, loss from training) on step using avg(loss) order by run")
    assert records(wide) == [{"run": f"{i:012x}", "1": i + 0.25, "2": i + 0.5} for i in (1, 2)]
    two = query(
        root, "create table best as select run, min(loss) as l from training group by run; select max(l) from best"
    )
    assert two.iloc[0, 0] == 2.25


def test_parameters_and_chosen_runs(root: Path) -> None:
    ids = [f"{2:012x}"]
    found = query(root, "select run, loss from training where step = ?", [2], ids)
    assert records(found) == [{"run": ids[0], "loss": 2.5}]
    assert query(root, "select count(*) from runs", ids=ids).iloc[0, 0] == 1
    assert len(query(root, "select * from evaluations", ids=[])) == 0


def test_a_run_that_was_cut_back_on_resume_is_read_anew(root: Path) -> None:
    path = RunFolder.open(root, "first").path / "metrics.jsonl"
    sql = f"select max(step) from training where run = '{1:012x}'"
    assert query(root, sql).iloc[0, 0] == 2
    lines = path.read_bytes().splitlines(keepends=True)
    truncate(path, sum(map(len, lines[:2])))
    assert query(root, sql).iloc[0, 0] == 1


def test_a_query_leaves_nothing_behind(root: Path) -> None:
    before = sorted(root.rglob("*"))
    query(root, "select * from runs join training on run = id join evaluations using (run)")
    assert sorted(root.rglob("*")) == before
