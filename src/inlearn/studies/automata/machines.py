"""Random machines: a table (S, A) of next states each, every state reached from state 0.

The published law: a random tree grows from state 0, then every (state, action) without a next state gets one uniformly.
Here the tree takes actions that are free, and what a law demands beyond it (`Law`) is met by drawing again.

A machine is a function of a key alone: candidate t is drawn at (key, t), and the first that is admitted counts.
Splits share no machine, because a hash of the table says to which one it belongs; where rows do not show which state
or action is which (`Law.nameless`), machines that differ in the names alone are one.

Shapes: keys (...,) give tables (..., S, A); -1 where a partial machine has no next state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from inlearn.core import draws
from inlearn.core.errors import UserError
from inlearn.studies.automata.config import MachinesConfig

Split = Literal["train", "validation", "test"]
SPLITS: dict[Split, tuple[int, int]] = {"train": (0, 8), "validation": (8, 9), "test": (9, 10)}  # buckets of 10

TRIED = 4096  # candidates from which a law's odds are known
ENOUGH = 4  # of them must be admitted, for each split
MISSING = 1e-12  # odds that a row finds no machine among a fixed number of candidates
MOST = 64  # candidates that a row may be given where nobody looks at them


@dataclass(frozen=True)
class Law:
    """What machines are drawn: see `MachinesConfig`."""

    states: int
    actions: int
    absorbing: Literal["any", "none", "one"] = "any"
    connected: bool = False
    defined: float = 1.0
    nameless: bool = False

    @property
    def pairs(self) -> int:
        """How many (state, action) have a next state."""
        return round(self.defined * (self.states * self.actions))

    def __str__(self) -> str:
        """The keys that ask for it."""
        asked = {"absorbing": self.absorbing, "connected": str(self.connected).lower(), "defined": self.defined}
        given = {key: value for key, value in asked.items() if value not in ("any", "false", 1.0)}
        size = f"task.states = {self.states}, task.actions = {self.actions}"
        return ", ".join((size, *(f"task.{key} = {value}" for key, value in given.items())))

    @property
    def looser(self) -> str:
        """What to ask for instead where there are too few."""
        kind = f" or not task.absorbing = {self.absorbing}" if self.absorbing != "any" else ""
        return f"more states or actions{' or task.connected = false' if self.connected else kind}"

    @classmethod
    def of(cls, config: MachinesConfig) -> Law:
        nameless = config.relabel or config.outputs is not None
        return cls(config.states, config.actions, config.absorbing, config.connected, config.defined, nameless)


def machines(keys: Tensor, law: Law, split: Split | None, look: bool = True) -> Tensor:
    """(..., S, A) one machine a key, of the split if one is named.

    `look`: rows are given further candidates until they have a machine. Else all are drawn at once, so that no number
    decides a shape: the same machines, but for odds of `MISSING`. Raises `UserError` where those would be too many.
    """
    if not look:
        tried = candidates(draws.each(keys[..., None], _range(_tries(law, split), keys.device)), law)
        first = admitted(tried, law, split).int().argmax(-1)
        size = law.states * law.actions
        found = tried.flatten(-2).gather(-2, first[..., None, None].expand(*keys.shape, 1, size))
        return found.unflatten(-1, (law.states, law.actions)).squeeze(-3)
    flat = keys.flatten()
    found = torch.empty(len(flat), law.states, law.actions, dtype=torch.int64, device=keys.device)
    left = torch.arange(len(flat), device=keys.device)
    turn = torch.zeros((), dtype=torch.int64, device=keys.device)
    while len(left):  # check_possible() has seen that this ends
        tried = candidates(draws.each(flat[left], turn), law)
        good = admitted(tried, law, split)
        found[left[good]] = tried[good]
        left, turn = left[~good], turn + 1
    return found.view(*keys.shape, law.states, law.actions)


# ---------------------------------------------------------------- candidates


def candidates(keys: Tensor, law: Law) -> Tensor:
    """(..., S, A) machines as the law draws them, before anything is demanded of them."""
    size, edges = law.states * law.actions, law.states - 1
    extra = size if law.defined < 1 else 0
    words = draws.bits(keys, 1, 3 * edges + size + 1 + extra).squeeze(-2)
    source, destination, action, fill, absorbing, kept = words.split((edges, edges, edges, size, 1, extra), -1)
    table = _tree(source, destination, action, law)
    in_tree = table >= 0
    table = torch.where(in_tree, table, below(fill, law.states).view_as(table))
    if law.defined < 1:
        table = torch.where(_defined(in_tree, kept.reshape(in_tree.shape), law), table, -1)
    if law.absorbing == "one":
        chosen = 1 + below(absorbing, edges)[..., None]  # from state 0 nothing else would be reached
        here = (_range(law.states, keys.device)[:, None] == chosen) & (table >= 0)
        table = torch.where(here, chosen, table)
    return table


def below(words: Tensor, high: int | Tensor) -> Tensor:
    """Integers in [0, high) from words of 64 random bits."""
    return (((words >> 32) & 0xFFFFFFFF) * high) >> 32


def nth(allowed: Tensor, n: Tensor) -> Tensor:
    """(...,) the place of the n-th (from 0) true entry of `allowed` (..., C)."""
    return (allowed.cumsum(-1) <= n[..., None]).sum(-1)


def _tree(source: Tensor, destination: Tensor, action: Tensor, law: Law) -> Tensor:
    """(..., S, A): a tree rooted at state 0, -1 beside it.

    While states are unattached: a uniform one of them becomes the next state of a uniform free action of a uniform one
    of the attached states that have a free action.
    """
    lead, device = source.shape[:-1], source.device
    table = torch.full((*lead, law.states * law.actions), -1, dtype=torch.int64, device=device)
    free = torch.full((*lead, law.states), law.actions, dtype=torch.int64, device=device)
    one = torch.ones((*lead, 1), dtype=torch.int64, device=device)
    order = torch.cat((torch.zeros_like(one), 1 + destination.argsort(dim=-1, stable=True)), -1)
    for attached in range(1, law.states):
        able = free.gather(-1, order[..., :attached]) > 0
        place = nth(able, below(source[..., attached - 1], able.sum(-1)))
        state = order.gather(-1, place[..., None])
        own = state * law.actions + _range(law.actions, device)
        unused = table.gather(-1, own) < 0
        used = nth(unused, below(action[..., attached - 1], unused.sum(-1)))
        table.scatter_(-1, own.gather(-1, used[..., None]), order[..., attached : attached + 1])
        free.scatter_add_(-1, state, -one)
    return table.unflatten(-1, (law.states, law.actions))


def _defined(in_tree: Tensor, words: Tensor, law: Law) -> Tensor:
    """(..., S, A): which pairs of a partial machine keep a next state: the tree's, one of each state, then any."""
    worth, choice = (words >> 32) & 0xFFFFFFFF, words & 0xFFFFFFFF
    own = choice == choice.amin(-1, keepdim=True)
    needed = in_tree | (own & ~in_tree.any(-1, keepdim=True))
    rank = torch.where(needed, -1, worth).flatten(-2).argsort(dim=-1).argsort(dim=-1).view_as(worth)
    return needed | (rank < law.pairs)


# ---------------------------------------------------------------- what is demanded


def absorbing(table: Tensor) -> Tensor:
    """(..., S) bool: no action leads out of the state."""
    return ((table == _range(table.shape[-2], table.device)[:, None]) | (table < 0)).all(-1)


def reached(table: Tensor) -> Tensor:
    """(..., S, S) bool: whether there is a way from the first state to the second, or they are the same."""
    states = table.shape[-2]
    own = _range(states, table.device)[:, None]
    ways = torch.eye(states, device=table.device).expand(*table.shape[:-2], -1, -1).clone()
    ways.scatter_(-1, torch.where(table < 0, own, table), 1.0)
    for _ in range(max(1, (states - 1).bit_length())):
        ways = (ways @ ways > 0).float()
    return ways > 0


def bucket(table: Tensor, nameless: bool = False) -> Tensor:
    """(...,) 0..9: the tenth of all machines that a table belongs to, by a hash of it."""
    factors = _factors(*table.shape[-2:], table.device)
    whole = structure(table) if nameless else ((table + 1) * factors).flatten(-2).sum(-1)
    return below(draws.each(whole, torch.zeros_like(factors[0, 0])), 10)


def structure(table: Tensor) -> Tensor:
    """(...,) int64: equal for machines that differ only in what their states and actions are called.

    States and actions are coloured by the colours of what they lead from and to, again and again (Weisfeiler and
    Leman 1968). Few others are equal too, which then are in one split together.
    """
    states = table.shape[-2]
    of_states = (table == _range(states, table.device)[:, None]).sum(-1)  # actions that stay
    of_actions = torch.zeros_like(table[..., 0, :])
    for _ in range(states):
        there = of_states.gather(-1, table.clamp(min=0).flatten(-2)).view_as(table)
        there = torch.where(table < 0, -1, there)
        edges = draws.each(draws.each(of_states[..., None], of_actions[..., None, :]), there)
        into = torch.zeros_like(of_states).scatter_add_(
            -1, table.clamp(min=0).flatten(-2), torch.where(table < 0, 0, edges).flatten(-2)
        )
        of_states = draws.each(draws.each(of_states, edges.sum(-1)), into)
        of_actions = draws.each(of_actions, edges.sum(-2))
    return draws.each(of_states.sum(-1), of_actions.sum(-1))


def admitted(table: Tensor, law: Law, split: Split | None) -> Tensor:
    """(...,) bool: whether the law, beyond how it draws, and the split take the machine."""
    found = torch.ones(table.shape[:-2], dtype=torch.bool, device=table.device)
    if law.absorbing != "any":
        found &= absorbing(table).sum(-1) == (law.absorbing == "one")
    if law.connected:
        found &= reached(table).flatten(-2).all(-1)
    elif law.absorbing == "one":  # the overwritten state may have been the only way to others
        found &= reached(table)[..., 0, :].all(-1)
    if split is not None:
        low, high = SPLITS[split]
        here = bucket(table, law.nameless)
        found &= (here >= low) & (here < high)
    return found


# ---------------------------------------------------------------- whether a law is possible


@lru_cache(maxsize=256)
def odds(law: Law) -> dict[Split, float]:
    """The share of candidates that each split admits, out of `TRIED`. Raises `UserError` where it has too few."""
    tried = candidates(draws.each(_key(0), _range(TRIED, torch.device("cpu"))), law)
    found: dict[Split, float] = {}
    for split in SPLITS:
        count = int(admitted(tried, law, split).sum())
        if count < ENOUGH:
            raise UserError(
                f"{law}: of {TRIED:,} machines drawn, {count} are such and in split '{split}', which shares none with "
                f"the others: too few different machines; expected {law.looser}"
            )
        found[split] = count / TRIED
    return found


def _tries(law: Law, split: Split | None) -> int:
    """How many candidates leave a row without a machine with odds of `MISSING`."""
    share = _share(law, split)
    tries = _needed(share)
    if tries > MOST:
        raise UserError(
            f"{law}: {share:.1%} of machines are such, which takes {tries} candidates a row where nobody may look at "
            f"them; expected at most {MOST}"
        )
    return tries


def possible_at_once(law: Law, split: Split | None) -> bool:
    """Whether `machines` can do without looking."""
    return _needed(_share(law, split)) <= MOST


def _share(law: Law, split: Split | None) -> float:
    return sum(odds(law).values()) if split is None else odds(law)[split]


def _needed(share: float) -> int:
    return 1 if share == 1 else math.ceil(math.log(MISSING) / math.log1p(-share))


def _key(number: int) -> Tensor:
    return torch.tensor(number, dtype=torch.int64)


@lru_cache(maxsize=64)  # kept on the device: a CUDA graph may copy nothing from the host
def _range(count: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.arange(count, device=device)


@lru_cache(maxsize=64)
def _factors(states: int, actions: int, device: torch.device) -> Tensor:
    """(S, A) int64: the odd factors of a table's entries in its hash."""
    with torch.inference_mode(False):
        return (draws.bits(_key(1), states, actions) | 1).to(device)
