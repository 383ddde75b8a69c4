"""What is measured of a learner's next letters."""

from __future__ import annotations

from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.contract import Measure
from inlearn.core.spaces import Space
from inlearn.studies.automata.regbench_config import LETTERS
from inlearn.studies.automata.regbench_references import next_letter

SLICES = (("word",), ("letter",), ("position",))


def loss(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
    """(n,) negative log-probabilities of the letters that came."""
    return space.loss(prediction, batch.at_scored(batch.targets))


def legal(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
    """(n,) 1 where the likeliest symbol is a letter that may follow, else 0."""
    return ((batch.at_scored(batch.marks["legal"]) >> prediction.argmax(-1)) & 1).double()


def l1(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
    """(n,) from 0 to 2."""
    given = prediction.double().exp()
    true = next_letter(batch.at_scored(batch.marks["legal"]))
    return (given[..., :LETTERS] - true).abs().sum(-1) + given[..., LETTERS:].sum(-1)


def total_variation(batch: Batch, space: Space, prediction: Tensor) -> Tensor:
    """(n,) from 0 to 1."""
    return l1(batch, space, prediction) / 2


REGBENCH_MEASURES = (
    Measure("loss", "nats", "-log p(letter)", loss, SLICES),
    Measure("accuracy", "fraction", "argmax p is a letter that may follow", legal, SLICES),
    Measure("total_variation", "probability", "1/2 sum |p - p of the machine|", total_variation, SLICES),
    Measure("l1", "probability", "sum |p - p of the machine|", l1),
)
