"""What is measured of a learner's answers. Rows are machines, so intervals are over machines."""

from __future__ import annotations

from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.contract import Measure
from inlearn.core.spaces import Space

SLICES = (("position",), ("seen",), ("occurrences",), ("absorbed",), ("seen", "absorbed"))


def loss(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
    """(n,) negative log-probabilities of the next states."""
    return space.loss(prediction, batch.at_scored(batch.targets))


def correct(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
    """(n,) 1 where the likeliest state (of equals the first) is the next one, else 0."""
    return (prediction.argmax(-1) == batch.at_scored(batch.targets)).double()


def perfect(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
    """(N,) 1 where every next state of the query is answered, else 0. What demonstrations ask does not count."""
    of_query = batch.at_scored(batch.marks["position"]) > 0
    wrong = (1.0 - correct(batch, space, prediction)) * of_query
    return (wrong.new_zeros(batch.rows).index_add_(0, batch.scored_rows, wrong) == 0).double()


MEASURES = (
    # Slices of the loss are those of the distances to every learner too, so they are few.
    Measure("loss", "nats", "-log p(next state)", loss, (("seen",), ("absorbed",))),
    Measure("accuracy", "fraction", "argmax p is the next state", correct, SLICES),
    Measure("perfect", "fraction of rows", "every next state of the query is argmax p", perfect),
)
