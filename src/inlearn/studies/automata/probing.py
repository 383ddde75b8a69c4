"""What a probe may look for in a model of automata: where it is, how it came there, and the machine itself.

States and actions are told by the symbols that a row shows for them, which is all that a model can know of them.
Targets are (N, T) int64 at the questions of the query, -1 elsewhere. S states, A actions, Q steps of a query at most.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.studies.automata.config import MAX_ACTIONS, MAX_STATES
from inlearn.studies.automata.episodes import Episodes

FIRST_ACTION = MAX_STATES  # its symbol


def probe_targets(batch: Batch) -> dict[str, Tensor]:
    """next_state: the answer. current_state, previous_action: before the action that is the current input; no action is
    before the first. pair_seen: whether the pair was shown by a demonstration (2), earlier in the query (1), or never.
    entry[s,a]: the next state of state symbol s under action number a, the same all along a row, at all questions,
    shown by then or not; where states share symbols there are none."""
    episodes = batch.latents
    if not isinstance(episodes, Episodes):  # rows of another task of this study
        return {}
    steps = episodes.query_actions.shape[1]
    along = torch.arange(steps)
    asked = along < episodes.query_lengths[:, None]  # (N, Q)
    at = (episodes.query_at[:, None] + 2 * along).where(asked, 0)
    states = episodes.state_symbols.gather(1, episodes.query_states.clamp(min=0))
    actions = episodes.action_symbols.gather(1, episodes.query_actions.clamp(min=0)) - FIRST_ACTION
    before = torch.cat((torch.full_like(actions[:, :1], -1), actions[:, :-1]), 1)

    def at_questions(values: Tensor) -> Tensor:
        """(N, Q) values at the positions that ask; a row without a step there writes to a column that is cut."""
        wide = torch.full((batch.inputs.shape[0], batch.inputs.shape[1] + 1), -1)
        return wide.scatter_(1, at.where(asked, batch.inputs.shape[1]), values)[:, :-1]

    found = {
        "next_state": at_questions(states[:, 1:]),
        "current_state": at_questions(states[:, :-1]),
        "previous_action": at_questions(before),
        "pair_seen": batch.marks["seen"].where(at_questions(actions) >= 0, -1),
    }
    table = by_symbols(episodes)
    if table is not None:
        where = at_questions(torch.zeros_like(actions)) == 0
        for state, action in (table >= 0).any(0).nonzero().tolist():
            entry = table[:, state, action, None].expand(where.shape)
            found[f"entry[{state},{action}]"] = entry.where(where, -1)
    return found


def by_symbols(episodes: Episodes) -> Tensor | None:
    """(N, 8, 10) the symbol of the next state by the symbols of state and action; -1 where a row has no such pair. None
    where two states of a row share a symbol."""
    ordered = episodes.state_symbols.sort(1).values
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        return None
    next_symbol = episodes.state_symbols.gather(1, episodes.table.clamp(min=0).flatten(1)).view(episodes.table.shape)
    next_symbol = next_symbol.where(episodes.table >= 0, -1)
    found = torch.full((len(episodes.table), MAX_STATES, MAX_ACTIONS), -1)
    row = torch.arange(len(episodes.table))[:, None, None]
    state, action = episodes.state_symbols[:, :, None], episodes.action_symbols[:, None, :] - FIRST_ACTION
    found[row, state, action] = next_symbol
    return found
