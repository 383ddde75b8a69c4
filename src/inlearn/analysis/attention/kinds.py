"""Kinds of positions that a question may look at, told from the symbols of its row alone.

Shapes: N rows of T symbols, n questions; a kind is (n, T) bool, true at positions up to the question's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def kinds(symbols: Tensor, row: Tensor, place: Tensor, orders: Sequence[int]) -> dict[str, Tensor]:
    """`symbols` (N, T); question i stands at position `place[i]` of row `row[i]`.

    match[k]: the last symbol of an earlier occurrence of the k symbols that end at the question; after match[k]: the
    position behind it, the question's own included. previous, self: one position before the question, and its own.
    """
    steps = symbols.shape[1]
    along, own = torch.arange(steps), place[:, None]
    read = symbols[row]  # (n, T)
    found = {}
    for order in orders:
        matched = along < own
        for back in range(order):
            asked = read.gather(1, (own - back).clamp(min=0))
            earlier = torch.nn.functional.pad(read[:, : steps - back], (back, 0), value=-1)
            matched = matched & (earlier == asked) & (own >= back)
        found[f"match[{order}]"] = matched
        found[f"after match[{order}]"] = torch.nn.functional.pad(matched[:, :-1], (1, 0))
    return {**found, "previous": along == own - 1, "self": along == own}
