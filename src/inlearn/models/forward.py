"""How a batch meets a model: the shared prefix is encoded once, outputs are made at scored positions only."""

from __future__ import annotations

from torch import Tensor

from inlearn.core.contract import Batch, Model


def outputs_at_scored(model: Model, batch: Batch) -> Tensor:
    """(n, width) outputs at `batch.scored`, in row order."""
    state = None
    if batch.prefix is not None:
        nowhere = batch.scored[:0]  # the prefix is read for its state alone
        _, state = model(_as_weights(model, batch.prefix), scored=nowhere)
    return model(_as_weights(model, batch.inputs), state, scored=batch.scored)[0]


def _as_weights(model: Model, inputs: Tensor) -> Tensor:
    """Vectors in the precision of the model's weights; symbols as they are."""
    return inputs.to(next(model.parameters()).dtype) if inputs.is_floating_point() else inputs
