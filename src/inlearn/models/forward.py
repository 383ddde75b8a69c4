"""How a batch meets a model: the shared prefix is encoded once, outputs are made at scored positions only."""

from __future__ import annotations

import torch
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.contract import Model
from inlearn.core.draws import Address, Addresses
from inlearn.core.spaces import Tokens
from inlearn.models.leaves import set_dropout


def outputs_at_scored(model: Model, batch: Batch, dropout: Address | Addresses | None = None, first: int = 0) -> Tensor:
    """(..., n, width) outputs at `batch.scored`, in row order; a stack's members lead, in model and batch.

    In training, `dropout` says where the masks are drawn and `first` which row of the whole batch comes first.
    """
    state = None
    if batch.prefix is not None:
        if dropout is not None:  # prefixes are rows of their own, so their masks are drawn beside those of the rows
            contexts = batch.prefix.shape[batch.weights.dim() - 2]
            set_dropout(model, dropout.beside("dropout"), first * contexts // batch.rows)
        nowhere = slice(0, 0)  # the prefix is read for its state alone
        _, state = model(_as_weights(model, batch.prefix), scored=nowhere)
    if dropout is not None:
        set_dropout(model, dropout, first)
    return model(_as_weights(model, batch.inputs), state, scored=batch.where)[0]


def outputs_running_freely(model: Model, batch: Batch, space: Tokens) -> Tensor:
    """Like `outputs_at_scored`, but inputs under `batch.feedback` are the model's own likeliest symbols just before.

    Positions that come before any feedback are read at once, the others one by one, all rows together.
    """
    state, inputs, feedback = None, batch.inputs, batch.feedback
    if batch.prefix is not None:
        _, state = model(batch.prefix, scored=slice(0, 0))
    first = int(feedback.any(0).nonzero()[0])
    outputs, state = model(inputs[:, :first], state)
    every = [outputs]
    for position in range(first, inputs.shape[1]):
        said = space.prediction(every[-1][:, -1]).argmax(-1)
        read = torch.where(feedback[:, position], said, inputs[:, position])
        outputs, state = model(read[:, None], state)
        every.append(outputs)
    return batch.at_scored(torch.cat(every, 1))


def _as_weights(model: Model, inputs: Tensor) -> Tensor:
    """Vectors in the precision of the model's weights; symbols as they are."""
    return inputs.to(next(model.parameters()).dtype) if inputs.is_floating_point() else inputs
