"""Episodes as rows of symbols, and what is asked of them.

A row is demo EOS demo EOS … QUERY q0 b0 q1 … EOS, right-padded with PAD; a walk is s0 a0 s1 a1 … sL. Inputs are the row
shifted right by one with its first symbol twice, so the answer at an action is the state that it leads to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.studies.automata.config import EOS, MAX_STATES, PAD, QUERY
from inlearn.studies.automata.episodes import Episodes
from inlearn.studies.automata.machines import absorbing


def begins(demo_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Where each demonstration begins (..., N, D), and where QUERY stands (..., N), from their lengths in actions."""
    ends = (2 * demo_lengths + 2).cumsum(-1)
    return ends - (2 * demo_lengths + 2), ends[..., -1]


def query_places(demo_lengths: Tensor) -> Tensor:
    """(..., N) the position that asks for the query's first next state: QUERY q0 b0 stand before it."""
    return begins(demo_lengths)[1] + 3


def encode(episodes: Episodes, length: int, dense: bool = False, free: bool = False, marked: bool = True) -> Batch:
    """Rows of `length` symbols. dense: next states of demonstrations are asked for as well. free: with `feedback`.
    marked: with marks, which take as long as all the rest.

    Marks are those of the query's questions, 0 elsewhere: "position" k = 1, 2, …; "seen" 2 if a demonstration showed
    the pair (state, action), 1 if only the query did before, else 0; "occurrences" how often both did, rounded down to
    a power of two; "absorbed" 1 if the state leads only to itself.
    """
    e = episodes
    demo_begins, query_sign = begins(e.demo_lengths)
    shape, device = query_sign.shape, query_sign.device
    row = torch.full((*shape, length + 1), PAD, dtype=torch.int64, device=device)  # the last takes what lies beyond
    demo_places = _write(row, demo_begins, e.demo_states, e.demo_actions, e.demo_lengths, e, length)
    row.scatter_(-1, query_sign[..., None], QUERY)
    query = tuple(each[..., None, :] for each in (e.query_states, e.query_actions))
    query_places = _write(row, query_sign[..., None] + 1, *query, e.query_lengths[..., None], e, length)
    asked = query_places[..., 0, 1:]
    row = row[..., :length]
    weights = torch.zeros(*shape, length + 1, device=device).scatter_(-1, asked, 1.0)
    if dense:
        weights.scatter_(-1, demo_places[..., 1:].flatten(-2), 1.0)
    marks = {name: _at(asked, values, length) for name, values in _marks(e).items()} if marked else {}
    feedback = None
    if free:
        later = torch.where(asked < length, asked + 1, length)
        feedback = torch.zeros(*shape, length + 1, dtype=torch.bool, device=device).scatter_(-1, later, True)
        feedback = feedback[..., :length]
    inputs = torch.cat((row[..., :1], row[..., :-1]), -1)
    targets = torch.where(row < MAX_STATES, row, 0)
    return Batch(inputs, targets, weights[..., :length], marks=marks, latents=e, feedback=feedback)


def _write(
    row: Tensor, begin: Tensor, states: Tensor, actions: Tensor, lengths: Tensor, e: Episodes, beyond: int
) -> Tensor:
    """Write walks (..., N, W, ·) with an EOS each into `row`; gives where their states stand (..., N, W, L+1)."""
    step = torch.arange(states.shape[-1], device=row.device)
    shown = e.state_symbols.gather(-1, states.flatten(-2)).view_as(states)
    taken = e.action_symbols.gather(-1, actions.flatten(-2)).view_as(actions)
    taken = torch.cat((taken, torch.full_like(taken[..., :1], EOS)), -1)
    taken = torch.where(step == lengths[..., None], EOS, taken)
    places = torch.where(step <= lengths[..., None], begin[..., None] + 2 * step, beyond)
    after = (places + 1).clamp_(max=beyond)
    row.scatter_(-1, places.flatten(-2), shown.flatten(-2))
    row.scatter_(-1, after.flatten(-2), taken.flatten(-2))
    return places


def _at(places: Tensor, values: Tensor, length: int) -> Tensor:
    """(..., length): `values` at their places, 0 elsewhere."""
    row = torch.zeros(*values.shape[:-1], length + 1, dtype=values.dtype, device=values.device)
    return row.scatter_(-1, places, values)[..., :length]


def _marks(e: Episodes) -> dict[str, Tensor]:
    """Of the query's questions, (..., N, Q)."""
    states, actions = e.table.shape[-2:]
    step = torch.arange(e.query_actions.shape[-1], device=e.table.device)
    asked = step < e.query_lengths[..., None]
    none = states * actions  # stands for what no walk has taken
    before = e.query_states[..., :-1]
    pair = torch.where(asked, before * actions + e.query_actions, none)
    demo = e.demo_states[..., :-1] * actions + e.demo_actions
    real = torch.arange(demo.shape[-1], device=demo.device) < e.demo_lengths[..., None]
    demo = torch.where(real, demo, none).flatten(-2)
    counts = torch.zeros(*demo.shape[:-1], none + 1, dtype=torch.int64, device=demo.device)
    shown = counts.scatter_add_(-1, demo, torch.ones_like(demo)).gather(-1, pair)
    earlier = repeats(pair)
    total = shown + earlier
    power = torch.ones_like(total) << (torch.frexp(total.float()).exponent.long() - 1).clamp_(min=0)
    stuck = absorbing(e.table).long().gather(-1, before)
    return {
        "position": (step + 1).expand_as(pair),
        "seen": torch.where(shown > 0, 2, (earlier > 0).long()),
        "occurrences": torch.where(total > 0, power, 0),
        "absorbed": stuck,
    }


def repeats(values: Tensor) -> Tensor:
    """(..., Q) int64: how often each entry has stood before in its row."""
    order = values.argsort(dim=-1, stable=True)
    ordered = values.gather(-1, order)
    place = torch.arange(values.shape[-1], device=values.device).expand_as(values)
    new = torch.ones_like(values, dtype=torch.bool)
    new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    rank = place - torch.where(new, place, 0).cummax(-1).values
    return torch.empty_like(values).scatter_(-1, order, rank)
