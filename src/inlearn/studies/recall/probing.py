"""What a probe may look for in a model that recalls: the value asked for, and what says where it stands."""

from __future__ import annotations

import torch
from torch import Tensor

from inlearn.core.batch import Batch


def probe_targets(batch: Batch) -> dict[str, Tensor]:
    """(N, T) int64, at questions. asked_value: the value beside the asked key; asked_place: the number of that pair in
    the context; pairs: how many there are, less one; first_value: of the first pair, whatever is asked."""
    pairs = batch.latents
    shape = batch.inputs.shape

    def at_questions(values: Tensor) -> Tensor:
        return torch.full(shape, -1).scatter_(-1, pairs.places, values)

    most = pairs.keys.shape[-1]
    number = torch.arange(most) * (torch.arange(most) < pairs.counts[:, None])
    return {
        "asked_value": at_questions(pairs.values),
        "asked_place": at_questions(number),
        "pairs": at_questions((pairs.counts - 1)[:, None].expand(-1, most)),
        "first_value": at_questions(pairs.values[:, :1].expand(-1, most)),
    }
