"""SQL over all runs below a root, answered by DuckDB in memory: nothing is written, no other file can be read.

The metrics stay where they are: `training` and `evaluations` are views of the runs' JSON lines, so that only the
columns (and, with `where run = …`, the files) that a query needs are parsed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
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
_RUN = "string_split(filename, '/')[-2] AS run"
_TRAINING = f"""SELECT {_RUN}, step, loss, rate, gradient_norm, phase FROM {_LINES}"""
_EVALUATIONS = f"""SELECT {_RUN}, step, set, learner, measure, reference, unit,
    coalesce(array_to_string("by", ','), '') AS "by",
    unnest("at") AS level, unnest(mean) AS mean, unnest(se) AS se, unnest(n) AS n FROM {_LINES}"""
_TRAINING_COLUMNS = "loss: 'DOUBLE', rate: 'DOUBLE', gradient_norm: 'DOUBLE', phase: 'BIGINT'"
_EVALUATION_COLUMNS = """set: 'VARCHAR', learner: 'VARCHAR', measure: 'VARCHAR', reference: 'VARCHAR', unit: 'VARCHAR',
    "by": 'VARCHAR[]', "at": 'BIGINT[][]', mean: 'DOUBLE[]', se: 'DOUBLE[]', n: 'BIGINT[]'"""


def query(root: Path, sql: str, parameters: Sequence[Any] = (), ids: Sequence[str] | None = None) -> pd.DataFrame:
    """The result of `sql` over the tables of `TABLES`: those of every run below `root`, or of the runs `ids`.

    `parameters` take the places of `?`. `evaluations` has one row a level; those of the ideal learners have no
    step. Lines that are not JSON are left out (`verify` names them). Raises `UserError` with DuckDB's own first line
    where the SQL is wrong.
    """
    options = {"python_enable_replacements": False, "autoinstall_known_extensions": False}
    with duckdb.connect(":memory:", config=options) as connection:
        try:
            # A view reads files, which only a plain SELECT is given leave to: a COPY could write to the same paths.
            plain = all(part.type is duckdb.StatementType.SELECT for part in connection.extract_statements(sql))
            mentioned = {table for table in TABLES if re.search(rf"\b{table}\b", sql, re.IGNORECASE)}
            runs = list_runs(root) if ids is None else [RunFolder(root / id) for id in ids]
            _fill(connection, root, runs, mentioned, "VIEW" if plain else "TABLE")
            answer = connection.execute(sql, list(parameters))
            if answer is None or answer.description is None:
                raise UserError("SQL: there is no query in it")
            return answer.df()
        except duckdb.Error as error:
            raise UserError(f"SQL: {str(error).splitlines()[0]}") from None


def _fill(
    connection: duckdb.DuckDBPyConnection, root: Path, runs: Sequence[RunFolder], mentioned: set[str], kind: str
) -> None:
    """Every table exists; those that the SQL does not mention stay empty. Afterwards the connection is locked."""
    metrics, references = (_present(runs, name) for name in ("metrics.jsonl", "references.jsonl"))
    lines = {
        "training": (_TRAINING, metrics, "training", _TRAINING_COLUMNS),
        "evaluations": (_EVALUATIONS, references + metrics, "evaluation", _EVALUATION_COLUMNS),
    }
    for table, columns in TABLES.items():
        select, files, event, parsed = lines.get(table, ("", [], "", ""))
        if table in mentioned and files:
            listed = f"[{', '.join(_literal(_pattern(file)) for file in files)}]"
            connection.execute(f"CREATE {kind} {table} AS {select.format(files=listed, event=event, columns=parsed)}")
        else:
            connection.execute(f"CREATE TABLE {table} ({columns})")
    if "runs" in mentioned and runs:
        named = {id: name for name, id in names(root).items()}
        rows = pd.DataFrame([_row(run, named.get(run.id)) for run in runs])
        connection.register("rows", rows)
        connection.execute("INSERT INTO runs BY NAME SELECT * FROM rows")
        connection.unregister("rows")
    if kind == "VIEW":
        # Leave is asked for a name as a pattern first, then for the file.
        readable = dict.fromkeys(name for file in metrics + references for name in (file, _pattern(file)))
        connection.execute(f"SET allowed_paths = [{', '.join(map(_literal, readable))}]")
    connection.execute("SET enable_progress_bar = false")  # it would go to the terminal from within a pipe
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _present(runs: Sequence[RunFolder], name: str) -> list[str]:
    paths = (f"{run.path}{os.sep}{name}" for run in runs)
    return [path for path in paths if os.path.exists(path)]


def _pattern(path: str) -> str:
    """`path` so that DuckDB takes it for one file, not for a pattern."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _row(run: RunFolder, name: str | None) -> dict[str, Any]:
    """One run's row; a run whose files are damaged is listed as such, it does not hide the others."""
    row: dict[str, Any] = dict.fromkeys(("study", "step", "reason", "seed", "model", "preset", "config"))
    try:
        status, config, asked = run.status, run.config["config"], run.config.get("unhashed", {})
        model, study = config.get("model"), config.get("study") or run.study  # study.json is long: read in need only
        row |= {"state": status.state, "step": status.step, "reason": status.reason, "study": study["kind"]}
        row |= {
            "seed": asked.get("seed", config.get("seed")),
            "model": model.get("kind") if isinstance(model, dict) else model,
        }
        row |= {"preset": asked.get("preset", config.get("preset")), "config": json.dumps(config)}
    except (EnvironmentFault, FileNotFoundError) as error:
        row |= {"state": "damaged", "reason": str(error)}
    return {"id": run.id, "name": name} | row
