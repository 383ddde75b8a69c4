"""What is measured of a learner's answers."""

from __future__ import annotations

from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.contract import Measure
from inlearn.core.spaces import Space

SLICES = (("pairs",), ("gap",))


def loss(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
    """(n,) negative log-probabilities of the values asked for."""
    return space.loss(prediction, batch.at_scored(batch.targets))


def correct(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
    """(n,) 1 where the likeliest symbol is the value asked for, else 0."""
    return (prediction.argmax(-1) == batch.at_scored(batch.targets)).double()


def all_correct(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
    """(N,) 1 where every question of the row is answered, else 0."""
    wrong = 1.0 - correct(batch, space, prediction)
    return (wrong.new_zeros(batch.rows).index_add_(0, batch.scored_rows, wrong) == 0).double()


MEASURES = (
    Measure("loss", "nats", "-log p(value)", loss, SLICES),
    Measure("accuracy", "fraction", "argmax p is the value", correct, (*SLICES, ("pairs", "gap"))),
    Measure("all_recalled", "fraction of rows", "every value of the row is argmax p", all_correct, (("pairs",),)),
)
