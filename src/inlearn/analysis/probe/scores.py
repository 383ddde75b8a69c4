"""How well a read-out does on rows it was neither fitted on nor chosen by, row by row.

Shapes: n judged positions, R rows. Accuracy is the share of positions with the right class likeliest; R² is the share
of the squared distance to the mean on the rows for fitting that is explained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inlearn.statistics.ratios import Ratio, ratio_interval

AT_ONCE = 1 << 24  # numbers of predictions


@dataclass(frozen=True)
class Score:
    """Sums of each row: what counts for the score, of how much, and what the likeliest class alone would get."""

    above: Tensor  # (R,)
    below: Tensor
    baseline: Tensor
    quantity: bool

    @property
    def ratio(self) -> Ratio:
        found = ratio_interval(self.above, self.below)
        if self.quantity:
            return Ratio(1 - found.value, 1 - found.high, min(1 - found.low, 1.0), found.n)
        return Ratio(found.value, max(found.low, 0.0), min(found.high, 1.0), found.n)

    @property
    def without(self) -> float:
        """What the commonest class of the rows for fitting scores; 0 for quantities, by definition of R²."""
        return 0.0 if self.quantity else float(self.baseline.sum() / self.below.sum())

    @staticmethod
    def common(scores: Sequence[Score]) -> Score:
        """Of several targets, each position and target counting alike."""
        parts = (torch.stack([getattr(s, name) for s in scores]).sum(0) for name in ("above", "below", "baseline"))
        return Score(*parts, scores[0].quantity)


def judged(
    read: Callable[[Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    rows: Tensor,
    count: int,
    likeliest: int | None,
    mean: Tensor,
) -> Score:
    """`rows` (n,) says which of the `count` rows each position is in; `likeliest` is the commonest class, none for
    quantities, whose `mean` (C,) is taken instead."""
    size = max(1, AT_ONCE // len(mean))
    right = []
    for first in range(0, len(x), size):
        outputs, own = read(x[first : first + size]), target[first : first + size]
        if likeliest is None:
            right.append((outputs.double() - own).square().sum(-1))
        else:
            right.append((outputs.argmax(-1) == own).double())
    if likeliest is None:
        below, baseline = (target - mean).square().sum(-1), torch.zeros(len(x), dtype=torch.float64)
    else:
        below, baseline = torch.ones(len(x), dtype=torch.float64), (target == likeliest).double()

    def by_row(values: Tensor) -> Tensor:
        return torch.zeros(count, dtype=torch.float64).index_add_(0, rows, values)

    return Score(by_row(torch.cat(right)), by_row(below), by_row(baseline), likeliest is None)
