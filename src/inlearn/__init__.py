"""inlearn: where does a sequence model keep what it learns: in its context, in its weights, or in a tool?

The words of the command line, in Python::

    import inlearn

    run = inlearn.run("regression", "preset=demo", "seed=1")
    run.metrics                          # training lines as a DataFrame
    run.evaluations                      # every learner, set, measure and step, long form
    run.checkpoint("best").model()       # an ordinary torch module
    run.report()                         # report.html and figures/
    inlearn.open("demo").checkpoint(1000).evaluate(["input_sweep"])
    inlearn.query("select run, max(step) from training group by run")

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from inlearn.lab.opened import Run

__version__ = "0.1.0"


def run(study: str, *overrides: str, root: Path | str = "runs", **more: Any) -> Run:
    """Train, or take up, the run that `overrides` ask for. Keyword arguments are overrides too: `seed=1`."""
    from inlearn.lab.session import start

    return start(study, [*overrides, *(f"{key}={value}" for key, value in more.items())], Path(root))


def resume(run: str, *overrides: str, root: Path | str = "runs") -> Run:
    """Go on with a run; `overrides` may change training.until, record.* and execution.*."""
    from inlearn.lab.session import resume

    return resume(run, overrides, Path(root))


def open(run: str, root: Path | str = "runs") -> Run:
    """A run by its name, id, beginning of an id, or folder."""
    from inlearn.lab.opened import Run
    from inlearn.runs.folder import RunFolder

    return Run(RunFolder.open(Path(root), run))


def query(sql: str, root: Path | str = "runs") -> pd.DataFrame:
    """SQL over all runs below `root`: the views runs, training and evaluations."""
    from inlearn.runs.query import query

    return query(Path(root), sql)
