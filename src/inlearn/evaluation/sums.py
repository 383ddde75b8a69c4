"""Means with honest standard errors: values in clusters (rows, documents, people), sliced by marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Level = tuple[int, ...]


@dataclass(frozen=True)
class Summary:
    """For every level: the weighted mean, its standard error (None for a single cluster), how many values."""

    levels: list[Level]
    means: list[float]
    errors: list[float | None]
    counts: list[int]


class Grouping:
    """Which of n values belong to which cluster and level: sorted out once, used by every measure of a set.

    The mean of a level is a ratio of sums over clusters, its standard error the usual linearisation of a ratio
    with clusters as the independent units (Cochran 1977, eq. 6.13): what correlates inside a row is not counted
    twice.
    """

    def __init__(self, clusters: Tensor, marks: Sequence[Tensor], weights: Tensor | None = None):
        """`clusters` (n,) and each mark (n,) are int64 and describe the same n values, in the same order.

        `weights` (n,) are those of the training loss (default: all alike).
        """
        self.weights = torch.ones(len(clusters), dtype=torch.float64) if weights is None else weights.double()
        if marks:
            levels, level_of = torch.stack(list(marks), -1).unique(dim=0, return_inverse=True)
        else:
            levels, level_of = clusters.new_zeros(1, 0), torch.zeros_like(clusters)
        self.levels: list[Level] = [tuple(level) for level in levels.tolist()]
        _, cluster_of = clusters.unique(return_inverse=True)
        # A cell is a cluster within a level. There are never more cells than values, so memory stays linear.
        cells, self.cell_of = (cluster_of * len(levels) + level_of).unique(return_inverse=True)
        self.level_of_cell = cells % len(levels)
        self.in_cell = torch.bincount(self.cell_of, self.weights)
        self.in_level = self._by_level(self.in_cell)
        self.counts = torch.bincount(level_of, minlength=len(levels)).tolist()
        self.clusters = torch.bincount(self.level_of_cell, minlength=len(levels))

    def _by_level(self, cells: Tensor) -> Tensor:
        return torch.bincount(self.level_of_cell, cells, len(self.levels))

    def summary(self, values: Tensor) -> Summary:
        """The n values' summary, computed in float64."""
        sums = torch.bincount(self.cell_of, values.double() * self.weights)
        means = self._by_level(sums) / self.in_level
        residuals = (sums - means[self.level_of_cell] * self.in_cell).square()
        units = self.clusters.double()
        errors = (self._by_level(residuals) * units / (units - 1).clamp(min=1)).sqrt() / self.in_level
        known = [error if count > 1 else None for error, count in zip(errors.tolist(), self.clusters, strict=True)]
        return Summary(self.levels, means.tolist(), known, self.counts)
