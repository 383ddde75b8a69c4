"""The study of a run: found again from its folder, described for readers without our code, blamed for its errors."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.lab import discovery
from inlearn.lab.build import Built
from inlearn.runs.folder import RunFolder


@contextlib.contextmanager
def blamed_on(source: Path | None) -> Iterator[None]:
    """Turn an error that comes out of a user's own study file into one sentence with its line."""
    try:
        yield
    except (UserError, EnvironmentFault):
        raise
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if source and Path(f.filename) == source]
        if not lines:
            raise
        raise UserError(f"{source}, line {lines[-1]}: {type(error).__name__}: {error}") from error


def study_of(folder: RunFolder) -> discovery.FoundStudy:
    """The study of a stored run: a built-in one, or the file that was kept inside its folder."""
    own = folder.path / "source.py"
    return discovery.study(str(own) if own.exists() else folder.study["kind"])


def study_document(built: Built, found: discovery.FoundStudy) -> dict[str, Any]:
    """study.json: what a reader needs to understand the tables without our code."""
    study = built.study
    describe = ("name", "unit", "formula")
    return {
        "kind": found.kind,
        "output_unit": study.interface.outputs.unit,
        "monitored": list(study.monitored),
        "labels": {
            name: {k: list(v) for k, v in task.labels.items()} for name, task in study.tasks.items() if task.labels
        },
        "measures": [{k: getattr(m, k) for k in describe} for m in study.measures],
        "references": [
            {"set": set_, "name": r.name, "mechanism": r.mechanism}
            for set_ in study.monitored
            for r in study.references(set_)
        ],
        "bounds": [{k: getattr(b, k) for k in (*describe, "value")} for b in study.bounds],
    }
