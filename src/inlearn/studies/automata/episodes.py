"""What generated a batch of automata rows: machines, the walks through them, and where the questions stand.

Shapes: N rows, D demonstrations of at most L actions, a query of at most Q actions, machines of S states and A actions.
States and actions here are numbers of the machine, 0..S-1 and 0..A-1; rows show them as symbols.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Episodes:
    """The latents of a batch. Beyond a walk's own length its entries have no meaning."""

    table: Tensor  # (N, S, A) the next state; -1 where a partial machine has none
    demo_states: Tensor  # (N, D, L + 1)
    demo_actions: Tensor  # (N, D, L)
    demo_lengths: Tensor  # (N, D) actions of each demonstration
    query_states: Tensor  # (N, Q + 1)
    query_actions: Tensor  # (N, Q)
    query_lengths: Tensor  # (N,)
    query_at: Tensor  # (N,) the input position that asks for query_states[:, 1]; step k is asked 2 k positions later
    state_symbols: Tensor  # (N, S) the symbol of every state, also the model's output for it
    action_symbols: Tensor  # (N, A)

    def to(self, device: torch.device | str) -> Episodes:
        return Episodes(*(getattr(self, field.name).to(device) for field in fields(self)))
