from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.core.errors import EnvironmentFault
from inlearn.runs.folder import RunFolder
from inlearn.runs.lines import MetricsWriter, read_lines, truncate
from inlearn.runs.metrics import evaluation_table, expand, training_table

COLUMNS = ["run", "step", "set", "learner", "measure", "reference", "unit", "by", "level", "mean", "se", "n"]


def training(step: int, **more: Any) -> dict[str, Any]:
    return {"event": "training", "step": step, "loss": 2.5, "rate": 0.003, "gradient_norm": 0.5, "phase": 0} | more


def evaluation(step: int | None, by: list[str], at: list[list[int]], mean: list[float], **more: Any) -> dict[str, Any]:
    line = {"event": "evaluation"} | ({} if step is None else {"step": step})
    what = {"set": "train", "learner": "model", "measure": "loss", "reference": None, "unit": "squared error"}
    levels = {"by": by, "at": at, "mean": mean, "se": [0.5] * len(mean), "n": [1024] * len(mean)}
    return line | what | levels | more


def run_with(tmp_path: Path, lines: list[dict[str, Any]], references: list[dict[str, Any]] | None = None) -> RunFolder:
    id = "0123456789ab"
    run = RunFolder.create(tmp_path, id, {"id": id, "config": {}}, {"kind": "regression"})
    for name, content in (("metrics.jsonl", lines), ("references.jsonl", references or [])):
        writer = MetricsWriter(run.path / name)
        for line in content:
            writer.write(line)
        writer.close()
    return run


def literal_table(run: RunFolder) -> list[dict[str, Any]]:
    """The long form by plain loops: the oracle."""
    rows = []
    for name in ("references.jsonl", "metrics.jsonl"):
        for text in (run.path / name).read_text().splitlines():
            line = json.loads(text)
            if line["event"] != "evaluation":
                continue
            for level, mean, se, n in zip(line["at"], line["mean"], line["se"], line["n"], strict=True):
                fields = {key: line[key] for key in ("set", "learner", "measure", "reference", "unit")}
                key = {"run": run.id, "step": line.get("step"), "by": ",".join(line["by"]), "level": tuple(level)}
                rows.append(key | fields | {"mean": mean, "se": se, "n": n})
    return rows


def as_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{k: None if v is pd.NA or v != v else v for k, v in row.items()} for row in table.to_dict("records")]


EXAMPLE = [
    evaluation(0, [], [[]], [4.125]),
    training(100),
    evaluation(100, ["position"], [[0], [1], [2]], [4.0, 3.0, 2.0], se=[0.25, None, 0.75]),
    evaluation(100, ["gain", "position"], [[3, 0], [100, 1]], [1.0, -2.0], measure="distance", reference="ridge"),
]
FLOOR = [evaluation(None, [], [[]], [1.6551], learner="ridge")]


def test_lines_are_written_compactly_in_order_and_flush_gives_the_length(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    writer.write(training(1))
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    expected = b'{"event":"training","step":1,"loss":2.5,"rate":0.003,"gradient_norm":0.5,"phase":0}\n'
    assert writer.flush(sync=True) == len(expected) == writer.flush()
    assert (tmp_path / "metrics.jsonl").read_bytes() == expected
    writer.write({"event": "ünïcode"})
    writer.close()
    assert read_lines(tmp_path / "metrics.jsonl") == [training(1), {"event": "ünïcode"}]
    assert read_lines(tmp_path / "metrics.jsonl", "training") == [training(1)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_refused_and_nothing_of_it_written(tmp_path: Path, value: float) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        writer.write(training(1, loss=value))
    assert writer.flush() == 0
    writer.close()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_cut_reads_as_the_whole_lines_before_it_and_writing_goes_on_there(data: st.DataObject) -> None:
    content = b"".join(json.dumps(training(step)).encode() + b"\n" for step in range(4))
    cut = data.draw(st.integers(0, len(content)))
    whole = content[:cut].count(b"\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        path.write_bytes(content[:cut])
        assert [line["step"] for line in read_lines(path)] == list(range(whole))
        writer = MetricsWriter(path)
        writer.write(training(99))
        writer.close()
        assert [line["step"] for line in read_lines(path)] == [*range(whole), 99]


def test_truncate_cuts_to_the_length_and_refuses_a_file_that_is_too_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    truncate(path, 0)
    assert not path.exists()
    path.write_bytes(b"{}\n{}\n")
    truncate(path, 3)
    assert path.read_bytes() == b"{}\n"
    truncate(path, 3)
    with pytest.raises(EnvironmentFault, match="3 bytes, but the checkpoint was written after 6"):
        truncate(path, 6)


@pytest.mark.parametrize("damage", [b'{"event":"evalu\n', b"\x00\x00\n", b"{},{}\n", b"\n"])
def test_a_damaged_line_is_named(tmp_path: Path, damage: bytes) -> None:
    run = run_with(tmp_path, EXAMPLE)
    path = run.path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + damage + lines[1])
    with pytest.raises(EnvironmentFault, match=r"metrics.jsonl is damaged in line 2"):
        read_lines(path)


def test_the_tables_readers_name_a_damaged_line_too(tmp_path: Path) -> None:
    run = run_with(tmp_path, EXAMPLE)
    path = run.path / "metrics.jsonl"
    path.write_bytes(b'{"event":"evalu\n' + path.read_bytes())
    with pytest.raises(EnvironmentFault, match=r"metrics.jsonl is damaged in line 1"):
        evaluation_table(run)


def test_training_table_has_its_columns_even_when_empty(tmp_path: Path) -> None:
    columns = ["run", "step", "loss", "rate", "gradient_norm", "phase"]
    run = run_with(tmp_path, [])
    assert list(training_table(run).columns) == columns and len(training_table(run)) == 0
    writer = MetricsWriter(run.path / "metrics.jsonl")
    for line in (training(1), EXAMPLE[0], training(2, extra=3)):
        writer.write(line)
    writer.close()
    table = training_table(run)
    assert list(table.columns) == [*columns, "extra"]
    assert table["step"].tolist() == [1, 2] and table["run"].tolist() == [run.id] * 2


def test_evaluation_table_is_the_long_form_of_the_lines(tmp_path: Path) -> None:
    run = run_with(tmp_path, EXAMPLE, FLOOR)
    table = evaluation_table(run)
    assert list(table.columns) == COLUMNS
    assert as_rows(table) == literal_table(run)
    assert table["step"].dtype == "Int64" and table["step"].isna().tolist() == [True, *[False] * 6]
    assert len(evaluation_table(run, references=False)) == 6


marks = st.lists(st.sampled_from(["gain", "position", "length"]), max_size=3, unique=True)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_evaluation_table_agrees_with_plain_loops(data: st.DataObject) -> None:
    lines = []
    for step in range(data.draw(st.integers(0, 4))):
        by = data.draw(marks)
        width = len(by)
        at = data.draw(st.lists(st.lists(st.integers(-3, 2**40), min_size=width, max_size=width), max_size=4))
        size = len(at)
        mean = data.draw(st.lists(numbers, min_size=size, max_size=size))
        se = data.draw(st.lists(st.none() | numbers, min_size=size, max_size=size))
        lines.append(evaluation(step, by, at, mean, se=se))
    with tempfile.TemporaryDirectory() as folder:
        run = run_with(Path(folder), lines)
        assert as_rows(evaluation_table(run)) == literal_table(run)


def test_expand_gives_an_int_column_a_mark(tmp_path: Path) -> None:
    table = evaluation_table(run_with(tmp_path, EXAMPLE, FLOOR))
    kept = [name for name in COLUMNS if name not in ("by", "level")]
    positions = expand(table)
    assert list(positions.columns) == [*kept, "position"]
    assert positions["position"].tolist() == [0, 1, 2] and positions["mean"].tolist() == [4.0, 3.0, 2.0]
    both = expand(table, ("gain", "position"))
    assert both[["gain", "position"]].to_numpy().tolist() == [[3, 0], [100, 1]]
    assert expand(table, ())["mean"].tolist() == [1.6551, 4.125]
    empty = expand(table, ("length",))
    assert len(empty) == 0 and list(empty.columns) == [*kept, "length"] and empty["length"].dtype == "int64"


def test_an_empty_run_has_empty_tables_with_the_same_types(tmp_path: Path) -> None:
    full = evaluation_table(run_with(tmp_path / "full", EXAMPLE, FLOOR))
    empty = evaluation_table(run_with(tmp_path / "empty", [training(1)]))
    assert len(empty) == 0 and empty.dtypes.to_dict() == full.dtypes.to_dict()
    assert pd.concat([empty, full]).dtypes.to_dict() == full.dtypes.to_dict()
    assert len(expand(empty)) == 0
