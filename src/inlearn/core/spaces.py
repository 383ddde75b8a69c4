"""What the positions of a problem carry, symbols or vectors; and so what a prediction is, its loss and its distance.

All that a model may know of a problem is its `Interface`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """A position carries one of `size` symbols. A prediction is (..., size) log-probabilities; losses are in nats.

    `among`: only the first so many can come up, so no learner gives the others any probability. One head then serves
    problems with fewer symbols, and nothing is lost between them.
    """

    size: int
    among: int | None = None
    unit: ClassVar[str] = "nats"

    @property
    def width(self) -> int:
        return self.size

    def read_alike(self, other: Space) -> bool:
        """Whether one model can serve both: the same symbols, whichever of them can come up."""
        return isinstance(other, Tokens) and other.size == self.size

    def prediction(self, outputs: Tensor) -> Tensor:
        if self.among is None:
            return outputs.log_softmax(-1)
        possible = outputs[..., : self.among].log_softmax(-1)
        return F.pad(possible, (0, self.size - self.among), value=float("-inf"))

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy per position: -log p(target)."""
        return -prediction.gather(-1, target[..., None]).squeeze(-1)

    def divergence(self, reference: Tensor, prediction: Tensor) -> Tensor:
        """KL(reference || model) per position: finite even where the reference is one-hot."""
        possible = reference > float("-inf")
        terms = reference.exp() * (reference - prediction)
        return torch.where(possible, terms, torch.zeros_like(terms)).sum(-1)


@dataclass(frozen=True)
class Vectors:
    """A position carries `dim` reals. A prediction is a mean; losses are squared errors averaged over columns.

    `answers` columns are predicted and scored; further columns of the model's output exist but carry no loss
    (the published regression model emits D+1 numbers of which only the first is trained).
    """

    dim: int
    answers: int | None = None
    unit: ClassVar[str] = "squared error"

    @property
    def width(self) -> int:
        return self.dim

    def read_alike(self, other: Space) -> bool:
        return other == self

    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs if self.answers is None else outputs[..., : self.answers]

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().mean(-1)

    divergence = loss


Space = Tokens | Vectors


@dataclass(frozen=True)
class Interface:
    """All that a model may know of a problem. `length` is the longest row, prefix included."""

    inputs: Space
    outputs: Space
    length: int
