"""SQL over all runs below a root, answered by DuckDB in memory: nothing is written, no other file can be read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.runs.folder import RunFolder, list_runs, names

TABLES = {
    "runs": "id VARCHAR, name VARCHAR, study VARCHAR, state VARCHAR, step BIGINT, reason VARCHAR, "
    "seed BIGINT, model VARCHAR, preset VARCHAR, config JSON",
    "training": "run VARCHAR, step BIGINT, loss DOUBLE, rate DOUBLE, gradient_norm DOUBLE, phase BIGINT",
    "evaluations": "run VARCHAR, step BIGINT, set VARCHAR, learner VARCHAR, measure VARCHAR, reference VARCHAR, "
    'unit VARCHAR, "by" VARCHAR, level BIGINT[], mean DOUBLE, se DOUBLE, n BIGINT',
}

# Half a last line (a run that is being written, or was killed) reads as a row of nulls and is left out by `event`.
_LINES = """read_json({files}, format = 'newline_delimited', ignore_errors = true, filename = true, columns = {{
    event: 'VARCHAR', step: 'BIGINT', {columns} }}) WHERE event = '{event}'"""
_RUN = "string_split(filename, '/')[-2]"
_TRAINING = f"""INSERT INTO training SELECT {_RUN}, step, loss, rate, gradient_norm, phase FROM {_LINES}"""
_EVALUATIONS = f"""INSERT INTO evaluations SELECT {_RUN}, step, set, learner, measure, reference, unit,
    array_to_string("by", ','), unnest("at"), unnest(mean), unnest(se), unnest(n) FROM {_LINES}"""
_TRAINING_COLUMNS = "loss: 'DOUBLE', rate: 'DOUBLE', gradient_norm: 'DOUBLE', phase: 'BIGINT'"
_EVALUATION_COLUMNS = """set: 'VARCHAR', learner: 'VARCHAR', measure: 'VARCHAR', reference: 'VARCHAR', unit: 'VARCHAR',
    "by": 'VARCHAR[]', "at": 'BIGINT[][]', mean: 'DOUBLE[]', se: 'DOUBLE[]', n: 'BIGINT[]'"""


def query(root: Path, sql: str) -> pd.DataFrame:
    """The result of `sql` over the tables of `TABLES`, filled from every run below `root`.

    `evaluations` has one row a level; those of the ideal learners have no step. Lines that are not JSON are left
    out (`verify` names them). Raises `UserError` with DuckDB's own first line where the SQL is wrong.
    """
    options = {"python_enable_replacements": False, "autoinstall_known_extensions": False}
    with duckdb.connect(":memory:", config=options) as connection:
        _fill(connection, root, {table for table in TABLES if re.search(rf"\b{table}\b", sql, re.IGNORECASE)})
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            answer = connection.execute(sql)
            if answer is None or answer.description is None:
                raise UserError("SQL: there is no query in it")
            return answer.df()
        except duckdb.Error as error:
            raise UserError(f"SQL: {str(error).splitlines()[0]}") from None


def _fill(connection: duckdb.DuckDBPyConnection, root: Path, mentioned: set[str]) -> None:
    """Every table exists; those that the SQL does not mention stay empty, because reading costs time."""
    for table, columns in TABLES.items():
        connection.execute(f"CREATE TABLE {table} ({columns})")
    runs = list_runs(root)
    if "runs" in mentioned and runs:
        named = {id: name for name, id in names(root).items()}
        rows = pd.DataFrame([_row(run, named.get(run.id)) for run in runs])
        connection.register("rows", rows)
        connection.execute("INSERT INTO runs BY NAME SELECT * FROM rows")
        connection.unregister("rows")
    metrics, references = ([run.path / name for run in runs] for name in ("metrics.jsonl", "references.jsonl"))
    if "training" in mentioned:
        _insert(connection, metrics, _TRAINING, "training", _TRAINING_COLUMNS)
    if "evaluations" in mentioned:
        _insert(connection, references + metrics, _EVALUATIONS, "evaluation", _EVALUATION_COLUMNS)


def _insert(connection: duckdb.DuckDBPyConnection, paths: list[Path], into: str, event: str, columns: str) -> None:
    files = [_literal(path) for path in paths if path.exists()]
    if files:
        connection.execute(into.format(files=f"[{', '.join(files)}]", event=event, columns=columns))


def _literal(path: Path) -> str:
    """`path` as an SQL text that DuckDB takes for one file, not for a pattern."""
    plain = re.sub(r"([*?\[])", r"[\1]", str(path))
    return "'" + plain.replace("'", "''") + "'"


def _row(run: RunFolder, name: str | None) -> dict[str, Any]:
    """One run's row; a run whose files are damaged is listed as such, it does not hide the others."""
    row: dict[str, Any] = dict.fromkeys(("study", "step", "reason", "seed", "model", "preset", "config"))
    try:
        status, config, asked = run.status, run.config["config"], run.config.get("unhashed", {})
        model = config.get("model")
        row |= {"state": status.state, "step": status.step, "reason": status.reason, "study": run.study["kind"]}
        row |= {
            "seed": asked.get("seed", config.get("seed")),
            "model": model.get("kind") if isinstance(model, dict) else model,
        }
        row |= {"preset": asked.get("preset", config.get("preset")), "config": json.dumps(config)}
    except (EnvironmentFault, FileNotFoundError) as error:
        row |= {"state": "damaged", "reason": str(error)}
    return {"id": run.id, "name": name} | row
