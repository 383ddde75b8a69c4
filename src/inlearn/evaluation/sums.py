"""Means with honest standard errors: values in clusters (rows, documents, people), sliced by marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Level = tuple[int, ...]


@dataclass
class Slices:
    """Running sums of values by (cluster, level). Clusters may span the chunks they arrive in.

    The mean of a level is a ratio of sums over clusters, its standard error the usual linearisation of a ratio
    with clusters as the independent units (Cochran 1977, eq. 6.13): what correlates inside a row is not counted
    twice.
    """

    parts: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def add(self, values: Tensor, clusters: Tensor, marks: Sequence[Tensor]) -> None:
        """`values` (n,), `clusters` (n,) and each mark (n,) describe the same n numbers."""
        levels = torch.stack(list(marks), -1) if marks else clusters.new_zeros(len(clusters), 0)
        self.parts.append((values.double(), clusters, levels))

    def table(self) -> tuple[list[Level], list[float], list[float | None], list[int]]:
        """(levels, means, standard errors, counts); an error is None where there is a single cluster."""
        values, clusters, marks = (torch.cat(column) for column in zip(*self.parts, strict=True))
        if marks.shape[1]:
            levels, level_of = marks.unique(dim=0, return_inverse=True)
        else:
            levels, level_of = marks[:1], torch.zeros_like(clusters)
        names, cluster_of = clusters.unique(return_inverse=True)
        shape = (len(names), len(levels))
        flat = cluster_of * shape[1] + level_of
        total = torch.zeros(shape, dtype=torch.float64).view(-1).index_add(0, flat, values).view(shape)
        count = torch.zeros(shape, dtype=torch.float64).view(-1).index_add(0, flat, torch.ones_like(values)).view(shape)
        mean = total.sum(0) / count.sum(0)
        residual = (total - mean * count).square().sum(0)
        units = (count > 0).sum(0)
        error = (residual * units / (units - 1).clamp(min=1)).sqrt() / count.sum(0)
        errors = [None if n < 2 else float(e) for e, n in zip(error, units, strict=True)]
        return [tuple(x) for x in levels.tolist()], mean.tolist(), errors, [int(c) for c in count.sum(0)]
