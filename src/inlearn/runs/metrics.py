"""metrics.jsonl, the truth about a run, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from inlearn.core.errors import EnvironmentFault
from inlearn.runs.folder import RunFolder
from inlearn.runs.lines import read_lines

TRAINING_COLUMNS = ["run", "step", "loss", "rate", "gradient_norm", "phase"]
LINE_COLUMNS = ["run", "step", "set", "learner", "measure", "reference", "unit", "by"]
_LINES = pa.schema(
    {name: pa.string() for name in ("event", "set", "learner", "measure", "reference", "unit")}
    | {"step": pa.int64(), "by": pa.list_(pa.string()), "at": pa.list_(pa.list_(pa.int64()))}
    | {"mean": pa.list_(pa.float64()), "se": pa.list_(pa.float64()), "n": pa.list_(pa.int64())}
)


def training_table(folder: RunFolder) -> pd.DataFrame:
    """One row a training line: run, step, loss, rate, gradient_norm, phase, then whatever else the lines hold."""
    lines = read_lines(folder.path / "metrics.jsonl", "training")
    table = pd.DataFrame({"run": folder.id, **line} for line in lines).drop(columns="event", errors="ignore")
    return table.reindex(columns=[*TRAINING_COLUMNS, *table.columns.difference(TRAINING_COLUMNS, sort=False)])


def evaluation_table(folder: RunFolder, references: bool = True, kept: bool = False) -> pd.DataFrame:
    """One row a level of every evaluation line, in the file's order, the ideal learners' own lines first.

    kept: also what was evaluated of its checkpoints afterwards and is kept in the run's analysis folder.

    Columns: run, step (Int64; missing for ideal learners), set, learner, measure, reference, unit,
    by (marks joined by ",", "" for the overall mean), level (a tuple of ints), mean, se, n.
    """
    names = ("references.jsonl", "metrics.jsonl") if references else ("metrics.jsonl",)
    paths = [folder.path / name for name in names]
    if kept:
        paths += sorted((folder.path / "analysis").glob("evaluation-*.jsonl"))
    lines = pa.concat_tables([_evaluation_lines(path) for path in paths]).combine_chunks()
    lines = lines.append_column("run", pa.array([folder.id] * len(lines), pa.string()))
    lines = lines.set_column(lines.column_names.index("by"), "by", pc.binary_join(lines["by"], ","))
    copies = np.repeat(np.arange(len(lines)), pc.list_value_length(lines["at"]).to_numpy())
    table = lines.select(LINE_COLUMNS).take(copies).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    values = {name: pc.list_flatten(lines[name]).to_numpy() for name in ("mean", "se", "n")}
    table = table.assign(level=_tuples(pc.list_flatten(lines["at"])), **values)
    if not kept:
        return table
    return table.drop_duplicates([*LINE_COLUMNS, "level"], ignore_index=True)  # what training evaluated too


def _evaluation_lines(path: Path) -> pa.Table:
    """The evaluation lines by Arrow's parser, which takes a quarter of the time of Python's."""
    content = path.read_bytes() if path.exists() else b""
    content = content[: content.rfind(b"\n") + 1]
    if not content:
        return _LINES.empty_table()
    try:
        table = pj.read_json(
            pa.BufferReader(content),
            pj.ReadOptions(block_size=len(content) + 1),  # in one piece: no line straddles two
            pj.ParseOptions(_LINES, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid as error:
        read_lines(path)  # finds the line that is not JSON
        raise EnvironmentFault(f"{path} is damaged: {error}") from None
    return table.filter(pc.equal(table["event"], "evaluation"))


def _tuples(lists: pa.ChunkedArray) -> np.ndarray:
    """(n,) objects: each list of ints as a tuple, all lists of one width at a time."""
    widths = pc.list_value_length(lists).to_numpy()
    values, starts = pc.list_flatten(lists).to_numpy(), np.cumsum(widths) - widths
    result = np.empty(len(widths), dtype=object)
    for width in np.unique(widths):
        block = values[starts[widths == width][:, None] + np.arange(width)].tolist()
        result[widths == width] = np.fromiter(map(tuple, block), dtype=object, count=len(block))
    return result


def expand(table: pd.DataFrame, by: Sequence[str] = ("position",)) -> pd.DataFrame:
    """The rows of `table` (from `evaluation_table`) sliced by exactly the marks `by`, an int column for each mark.

    Without such rows the result is empty and has the same columns.
    """
    rows = table[table["by"] == ",".join(by)]
    levels = np.array(rows["level"].tolist(), dtype=np.int64).reshape(len(rows), len(by))
    marks = {name: levels[:, column] for column, name in enumerate(by)}
    return rows.drop(columns=["by", "level"]).assign(**marks).reset_index(drop=True)
