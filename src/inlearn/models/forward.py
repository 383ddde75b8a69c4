"""How a batch meets a model: the shared prefix is encoded once, outputs are made at scored positions only."""

from __future__ import annotations

from torch import Tensor

from inlearn.core.contract import Batch, Model


def outputs_at_scored(model: Model, batch: Batch) -> Tensor:
    """(n, width) outputs at `batch.scored`, in row order."""
    state = None
    if batch.prefix is not None:
        nowhere = batch.scored[:0]  # the prefix is read for its state alone
        _, state = model(batch.prefix, scored=nowhere)
    return model(batch.inputs, state, scored=batch.scored)[0]
