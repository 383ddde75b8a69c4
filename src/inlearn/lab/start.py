"""`start=RUN@STEP`: a child run takes its first weights from a checkpoint of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inlearn.core.errors import UserError
from inlearn.lab.request import parent_folder, split_reference
from inlearn.runs.checkpoints import CheckpointStore
from inlearn.runs.remote_pull import bring
from inlearn.training.learner import Learner


def resolve_step(store: CheckpointStore, run: str, which: str) -> int:
    """The step that "best", "last" or a number stands for, among the checkpoints there are."""
    steps = store.steps()
    if not steps:
        raise UserError(f"run {run} has no checkpoint yet")
    if which == "last":
        return steps[-1]
    if which == "best":
        best = store.best()
        if best is None:
            raise UserError(f"run {run} has no best checkpoint yet (record.best says by which measure it is chosen)")
        return best["step"]
    if not which.isdigit():
        raise UserError(f"checkpoint '{which}' of run {run}: expected best, last or a step")
    return int(which)


def carry_over(learner: Learner, root: Path, parent: str) -> dict[str, Any]:
    """Copy every parameter whose name and shape agree; the report says which were carried and which are fresh.

    UserError where nothing fits, and where the parent reads other symbols: its blocks would be carried to inputs that
    mean something else.
    """
    run, step = split_reference(parent)
    folder = parent_folder(root, run)
    bring(folder.path, step)
    theirs = CheckpointStore(folder.path).load(int(step)).weights
    own = dict(learner.parameters.layout)
    there, here = (tuple(table.get("embedding.weight", ())) for table in ({n: w.shape for n, w in theirs.items()}, own))
    if len(there) == len(here) == 2 and there[0] != here[0] and there[1] == here[1]:
        raise UserError(f"start={parent}: that run reads {there[0]} symbols, this one {here[0]}; expected as many")
    carried = [name for name, shape in own.items() if name in theirs and theirs[name].shape == shape]
    if not carried:
        raise UserError(f"start={parent}: no parameter of that checkpoint fits this model by name and shape")
    learner.parameters.place({name: theirs[name] for name in carried})
    reshaped = [name for name in own if name in theirs and name not in carried]
    return {
        "parent": parent,
        "carried": carried,
        "fresh": [name for name in own if name not in carried],
        "other_shape": {name: [list(theirs[name].shape), list(own[name])] for name in reshaped},
        "left_behind": [name for name in theirs if name not in own],
    }
