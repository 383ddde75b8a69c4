"""Checkpoints of many runs as one: weights, or a live model, with a member axis in the order of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from inlearn.core.errors import UserError
from inlearn.lab.opened import Checkpoint, Run
from inlearn.models.leaves import stack
from inlearn.runs.checkpoints import CheckpointStore
from inlearn.runs.folder import RunFolder, differences


def stacked_weights(root: Path, ids: Sequence[str], which: int | str) -> dict[str, Tensor]:
    """Tensors (member, *shape) by name. Raises `UserError`, naming tensor and run, where names or shapes differ."""
    first, *_ = each = [_weights(checkpoint) for checkpoint in _checkpoints(root, ids, which)]
    for id, own in zip(ids, each, strict=True):
        for name in sorted({*first, *own}):  # a file lists its tensors in no order
            here, there = (tuple(w[name].shape) if name in w else None for w in (first, own))
            if here != there:
                raise UserError(
                    f"{name} is {here or 'not there'} in run {ids[0]} and {there or 'not there'} in run {id}; "
                    "expected runs whose weights have the same shapes"
                )
    return {name: torch.stack([own[name] for own in each]) for name in first}


def stacked_model(root: Path, ids: Sequence[str], which: int | str, device: str) -> nn.Module:
    """One model whose member e computes, for inputs (member, N, …), what the checkpoint of run e does."""
    checkpoints = _checkpoints(root, ids, which)
    first = checkpoints[0].run
    for checkpoint in checkpoints[1:]:
        for key, here, there in differences(_computes(first), _computes(checkpoint.run)):
            raise UserError(
                f"{key} = {here} in run {first.id} and {key} = {there} in run {checkpoint.run.id}; "
                "expected runs of one architecture for a model with a member axis"
            )
    stacked_weights(root, ids, which)  # says which tensor differs, and where
    return stack([checkpoint.model(device) for checkpoint in checkpoints]).eval()


def _checkpoints(root: Path, ids: Sequence[str], which: int | str) -> list[Checkpoint]:
    if not ids:
        raise UserError("there are no runs to take weights of")
    return [Run(RunFolder.open(root, id)).checkpoint(which) for id in ids]


def _weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return CheckpointStore(checkpoint.run.path).load(checkpoint.step).weights


def _computes(run: Run) -> dict:
    """What says how a model computes, beside its weights."""
    config = run.config
    return {
        "model": config.model.model_dump(mode="json", exclude=set(type(config.model).SHAPELESS)),
        "precision": config.precision,
    }
