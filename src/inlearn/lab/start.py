"""`start=RUN@STEP`: a child run takes its first weights from a checkpoint of another run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inlearn.core.errors import UserError
from inlearn.runs.checkpoints import CheckpointStore
from inlearn.runs.folder import RunFolder
from inlearn.training.trainer import Trainer


@dataclass(frozen=True)
class Parent:
    """`reference` is the checkpoint as the child's identity holds it: the full id and the step's number."""

    reference: str
    weights: Mapping[str, Tensor]


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


def split_reference(reference: str) -> tuple[str, str | None]:
    """RUN@STEP into (run, step or None)."""
    run, at, which = reference.rpartition("@")
    return (run, which) if at else (reference, None)


def parent_checkpoint(root: Path, start: str) -> Parent:
    run, which = split_reference(start)
    folder = RunFolder.open(root, run)
    store = CheckpointStore(folder.path)
    step = resolve_step(store, run, which or "last")
    return Parent(f"{folder.id}@{step}", store.load(step).weights)


def carry_over(trainer: Trainer, parent: Parent) -> dict[str, Any]:
    """Copy every parameter whose name and shape agree; the report says which were carried and which are fresh."""
    own = dict(trainer.model.named_parameters())
    carried = [
        name for name, value in own.items() if name in parent.weights and parent.weights[name].shape == value.shape
    ]
    if not carried:
        raise UserError(f"start={parent.reference}: no parameter of that checkpoint fits this model by name and shape")
    with torch.no_grad():
        for name in carried:
            own[name].copy_(parent.weights[name])
    reshaped = {
        name: [list(parent.weights[name].shape), list(own[name].shape)]
        for name in own
        if name in parent.weights and name not in carried
    }
    return {
        "parent": parent.reference,
        "carried": carried,
        "fresh": [name for name in own if name not in carried],
        "other_shape": reshaped,
        "left_behind": [name for name in parent.weights if name not in own],
    }
