"""Updates whose forward and backward pass are one compiled function, where shapes and scored columns are fixed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inlearn.core.batch import Batch
from inlearn.core.spaces import Space
from inlearn.models.compiled import CompiledGradients, Losses, NotCompiled
from inlearn.models.flat import FlatParameters

STEPS = 20_000  # updates that repay 20 s of compiling, for models of every size (benchmarks/results/compile.json)


def why_not(batch: Batch, drops_out: bool, precision: str) -> str | None:
    """Why updates on such batches cannot be compiled here, or None."""
    if shutil.which(os.environ.get("CXX") or "g++") is None:
        return "there is no C++ compiler (g++, or what CXX names)"
    if batch.columns is None:
        return "scored positions change from batch to batch"
    if batch.prefix is not None:
        return "rows share a prefix"
    if drops_out:
        return "model.dropout is above 0"
    if precision == "bfloat16":
        return "precision = bfloat16"
    return None


class Compiled:
    """Mean losses of batches, with their gradients left in `flat`: compiled at the first batch of each shape.

    Where that fails, `gave_up` hears the reason once, and `gradients` returns None from then on.
    """

    def __init__(self, model: nn.Module, flat: FlatParameters, gave_up: Callable[[str], None]):
        self.model, self.flat, self.gave_up = model, flat, gave_up
        self._functions: dict[Any, CompiledGradients] = {}
        self._failed = False

    def gradients(self, space: Space, batch: Batch) -> Tensor | None:
        """A scalar, or (E,) of a stack; None where it is left to autograd."""
        if self._failed or batch.columns is None or batch.prefix is not None:
            return None
        columns = batch.columns
        kind = space, range(*columns.indices(batch.weights.shape[-1])), batch.inputs.shape, batch.targets.shape
        if kind not in self._functions:
            self._functions[kind] = CompiledGradients(self.flat, _losses(self.model, space, columns))
        inputs = batch.inputs.to(self.flat.values.dtype) if batch.inputs.is_floating_point() else batch.inputs
        self.flat.zero()
        try:
            return self._functions[kind](inputs, batch.targets, batch.weights)
        except NotCompiled as error:
            self._failed = True
            self.gave_up(str(error))
            return None


def _losses(model: nn.Module, space: Space, columns: slice) -> Losses:
    """WeightedLoss over the total weight, as a pure function of parameters and tensors."""

    def losses(parameters: Mapping[str, Tensor], inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        batch = Batch(inputs, targets, weights, columns=columns)
        outputs, _ = torch.func.functional_call(model, dict(parameters), (inputs,), {"scored": columns})
        each = space.loss(space.prediction(outputs), batch.at_scored(targets))
        return (each * batch.at_scored(weights)).sum(-1) / weights.flatten(-2).sum(-1)

    return losses
