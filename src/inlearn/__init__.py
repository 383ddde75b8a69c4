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
    inlearn.sweep("regression", "task.count=1,16", "seed=range(3)", name="my-plan")
    many = inlearn.open_runs("my-plan")  # or open_runs(): every run below the root
    many.table                           # one row a run: axes, state, step
    many.evaluations("loss")             # all runs' evaluations with their axes as columns
    many.summarise().groups              # mean, std, 95 % interval and n of every group

`root` is a folder, or object storage such as "s3://bucket/lab". Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from inlearn.lab.opened import Run
    from inlearn.sweeps.many import Runs

__version__ = "0.1.0"

# Without it, the last bits of a matrix product on a CPU depend on where in memory its matrices lie, hence a member's on
# its company. MKL looks once, at its first product: who computes before this import has to set it. It costs nothing.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def run(study: str, *overrides: str, root: Path | str = "runs", **more: Any) -> Run:
    """Train, or take up, the run that `overrides` ask for. Keyword arguments are overrides too: `seed=1`."""
    from inlearn.lab.session import start
    from inlearn.runs.remote_root import open_root

    return start(study, [*overrides, *(f"{key}={value}" for key, value in more.items())], open_root(root))


def resume(run: str, *overrides: str, root: Path | str = "runs") -> Run:
    """Go on with a run; `overrides` may change training.until, record.* and execution.*."""
    from inlearn.lab.session import resume
    from inlearn.runs.remote_root import open_root

    return resume(run, overrides, open_root(root))


def open(run: str, root: Path | str = "runs") -> Run:
    """A run by its name, id, beginning of an id, or folder."""
    from inlearn.lab.opened import Run
    from inlearn.runs.folder import RunFolder
    from inlearn.runs.remote_root import open_root

    return Run(RunFolder.open(open_root(root), run))


def query(sql: str, root: Path | str = "runs") -> pd.DataFrame:
    """SQL over all runs below `root`: the views runs, training and evaluations."""
    from inlearn.runs.query import query
    from inlearn.runs.remote_root import open_root

    return query(open_root(root), sql)


def sweep(
    plan: str,
    *overrides: str,
    root: Path | str = "runs",
    name: str | None = None,
    retry_failed: bool = False,
    renew: bool = False,
    **more: Any,
) -> Runs:
    """Carry out a plan (a study with axes, or a YAML file) as far as it is not done; its runs.

    Keyword arguments are overrides, lists of them axes: `seed=[0, 1, 2]`. In a script, call it below
    `if __name__ == "__main__":`, because worker processes import the script too. Raises `EnvironmentFault` after the
    rest was carried out if a run failed.
    """
    from inlearn.core.errors import EnvironmentFault
    from inlearn.runs.remote_root import open_root
    from inlearn.sweeps.axes import text
    from inlearn.sweeps.many import open_runs
    from inlearn.sweeps.sweep import asked_for
    from inlearn.sweeps.sweep import sweep as carry_out

    axes = {key: value if isinstance(value, (list, tuple, range)) else [value] for key, value in more.items()}
    words = [*overrides, *(f"{key}={','.join(map(text, values))}" for key, values in axes.items())]
    asked, engine = asked_for(plan, words, name)
    outcome = carry_out(asked, engine, open_root(root), retry_failed=retry_failed, renew=renew)
    if problem := outcome.problem():
        raise EnvironmentFault(problem)
    return open_runs(outcome.plan.root, outcome.plan.name)


def open_runs(plan: str | None = None, root: Path | str = "runs") -> Runs:
    """Many runs as one: those of a plan, or without one every run below `root`, with what they differ in as columns."""
    from inlearn.runs.remote_root import open_root
    from inlearn.sweeps.many import open_runs

    return open_runs(open_root(root), plan)
