"""Which rows a probe is fitted on, chosen by and judged on: never the same row, nor one that reads the same, in two.

Shapes: N rows, n scored positions in row order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.errors import UserError

TRAIN, VALIDATION = 0.6, 0.8  # of all rows, where each part ends
FEWEST = 5  # groups of rows that leave something for each part


@dataclass(frozen=True)
class Parts:
    """Where the rows and scored positions of each part end; positions are in row order, so parts are slices."""

    rows: tuple[int, int, int]
    positions: tuple[int, int, int]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Scored positions for fitting, for choosing, for judging."""
        first, second, last = self.positions
        return slice(0, first), slice(first, second), slice(second, last)


def parted(batch: Batch, together: int) -> Parts:
    """Three fifths of the rows, a fifth, a fifth. UserError where there are too few."""
    groups = batch.rows // together
    if groups < FEWEST:
        kind = "rows" if together == 1 else f"groups of {together} rows"
        raise UserError(
            f"rows: {groups} different {kind}; expected at least {FEWEST} to fit on some and judge on others"
        )
    ends = round(TRAIN * groups) * together, round(VALIDATION * groups) * together, batch.rows
    counts = [int((batch.scored_rows < end).sum()) for end in ends]
    if not 0 < counts[0] < counts[1] < counts[2]:
        raise UserError("rows: some part of them is asked nothing; expected more rows")
    return Parts(ends, tuple(counts))


def different(batch: Batch, together: int) -> tuple[Batch, Tensor]:
    """The batch (without latents) less each group of `together` rows that reads like an earlier one, and the numbers
    (N,) of the rows that are left. A finite set comes round again, and a row must not be its own judge."""
    groups = batch.rows // together
    read = batch.inputs.reshape(groups, -1)
    if batch.prefix is not None:
        read = torch.cat((batch.prefix.reshape(groups, -1), read), 1)
    kinds, kind = read.unique(dim=0, return_inverse=True)
    first = torch.full((len(kinds),), groups).scatter_reduce(0, kind, torch.arange(groups), "amin").sort().values
    rows = (first[:, None] * together + torch.arange(together)).flatten()
    prefix = None
    if batch.prefix is not None:
        share = batch.prefix.shape[0] // groups
        prefix = batch.prefix[(first[:, None] * share + torch.arange(share)).flatten()]
    kept = (batch.inputs[rows], batch.targets[rows], batch.weights[rows], prefix)
    return Batch(*kept, columns=batch.columns), rows
