"""The ideal learners of recall, as log-probabilities (n, V) of every symbol at the scored positions, in float64.

They read what generated the rows (`tasks.Pairs`), so none has to parse symbols.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.contract import Mechanism


def _impossible(batch: Batch, vocabulary: int) -> Tensor:
    """(n, V) of log 0."""
    shape = len(batch.scored), vocabulary
    return torch.full(shape, -torch.inf, dtype=torch.float64, device=batch.weights.device)


@dataclass(frozen=True)
class LookUp:
    """Finds the key in the context: the value that stood beside it is certain."""

    vocabulary: int
    name: str = "look_up"
    mechanism: Mechanism = "context"

    def predict(self, batch: Batch) -> Tensor:
        pairs, row = batch.latents, batch.scored_rows
        asked = batch.inputs.flatten()[batch.scored]
        found = (pairs.keys[row] == asked[:, None]).int().argmax(-1, keepdim=True)
        value = pairs.values[row].gather(-1, found)
        return _impossible(batch, self.vocabulary).scatter_(-1, value, 0.0)


@dataclass(frozen=True)
class Values:
    """Knows which K values the context shows, but not whose they are: uniform over them, a loss of log K."""

    vocabulary: int
    name: str = "values"
    mechanism: Mechanism = "context"

    def predict(self, batch: Batch) -> Tensor:
        pairs, row = batch.latents, batch.scored_rows
        each = -pairs.counts[row].double().log()[:, None]
        return _impossible(batch, self.vocabulary).scatter_(
            -1, pairs.values[row], each.expand(-1, pairs.keys.shape[-1])
        )


@dataclass(frozen=True)
class Uniform:
    """Knows which symbols are values at all: uniform over the V/2 of them, whatever the context."""

    vocabulary: int
    name: str = "uniform"
    mechanism: Mechanism = "none"

    def predict(self, batch: Batch) -> Tensor:
        found, half = _impossible(batch, self.vocabulary), self.vocabulary // 2
        found[:, half:] = -math.log(self.vocabulary - half)
        return found
