"""Walks through machines: from a start, an action uniformly random among those that the state has, again and again.

Shapes: rows in any leading shape (...,), W walks a row, of L actions each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inlearn.core import draws
from inlearn.studies.automata.machines import below


def walk(table: Tensor, start: Tensor, keys: Tensor, length: int, total: bool = True) -> tuple[Tensor, Tensor]:
    """States (..., W, L+1) and actions (..., W, L) of walks from `start` (..., W) through tables (..., S, A).

    keys: (..., W) one a walk. total: every table is known to have a next state everywhere.
    """
    walks, (states, actions) = start.shape[-1], table.shape[-2:]
    rows = keys.numel() // walks
    words = draws.bits(keys, 1, length).reshape(rows * walks, length).T
    choices = None if total else (table.flatten(0, -2) < 0).int().argsort(dim=-1, stable=True)
    ordered = table.reshape(-1, actions) if choices is None else table.flatten(0, -2).gather(-1, choices)
    # A slot is a place in the flattened tables: (row * S + state) * A + rank of the action among those there are.
    row = torch.arange(rows, device=table.device)
    following = ((ordered.view(rows, -1) + (row * states)[:, None]) * actions).flatten()
    ordered = ordered.flatten()
    base = ((start.reshape(rows, walks) + (row * states)[:, None]) * actions).flatten()
    slots = torch.empty(length, rows * walks, dtype=torch.int64, device=table.device)
    if choices is None:
        ranks = below(words, actions).contiguous()
    else:
        words = ((words >> 32) & 0xFFFFFFFF).contiguous()
        counts = (table.flatten(0, -2) >= 0).sum(-1, keepdim=True).expand(-1, actions).flatten()
    for step in range(length):
        rank = ranks[step] if choices is None else (words[step] * counts[base]) >> 32
        torch.add(base, rank, out=slots[step])
        base = following[slots[step]]
    taken = ranks if choices is None else choices.flatten()[slots]
    passed = torch.cat((start.reshape(1, -1), ordered[slots]))
    lead = start.shape
    return passed.T.reshape(*lead, length + 1), taken.T.reshape(*lead, length)
