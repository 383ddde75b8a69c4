"""Which positions of a batch need outputs, so that no more than these are computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inlearn.core.batch import grid


@dataclass(frozen=True)
class Scored:
    """Which of T positions need outputs: the queries at `columns`, of which `index` are picked (None: all)."""

    columns: slice
    index: Tensor | None

    @staticmethod
    def of(scored: Tensor | slice | None, rows: int, steps: int) -> Scored:
        """The least work for `scored`: columns, or (n,) into rows * steps positions.

        A grid (the same evenly spaced positions in every row) becomes a slice, which costs no gather. Looking at
        the numbers would make a GPU wait, so there every query is computed and the scored ones are picked.
        """
        if isinstance(scored, slice):
            start, stop, stride = scored.indices(steps)
            return Scored(slice(start, stop, None if stride == 1 else stride), None)
        if scored is None or (scored.numel() and scored.device.type != "cpu"):
            return Scored(slice(0, steps), scored)
        if not scored.numel():
            return Scored(slice(0, 0), None)
        each, uneven = divmod(scored.numel(), rows)
        if not uneven:
            first = int(scored[0])
            stride = int(scored[1]) - first if each > 1 else 1
            last = first + (each - 1) * stride
            columns = slice(first, last + 1, stride)
            if stride > 0 and last < steps and torch.equal(scored, grid(columns, rows, steps, scored.device)):
                return Scored(columns, None)
        row, column = scored // steps, scored % steps
        stop = int(column.max()) + 1
        return Scored(slice(0, stop), row * stop + column)

    def pick(self, x: Tensor) -> Tensor:
        """(..., N, columns, C) to (..., n, C)."""
        x = x.flatten(-3, -2)
        return x if self.index is None else x.index_select(-2, self.index)

    def picked(self, x: Tensor) -> Tensor:
        """(..., N, T, C), all positions, to (..., n, C)."""
        return self.pick(x[..., self.columns, :])
