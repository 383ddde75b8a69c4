"""Rows of machines that are drawn when they are needed.

Tensors are made where the address's step lives (the CPU, if it is a plain integer). Steps of shape (S,), or the members
of a stack, stand in front of every shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from inlearn.core import draws
from inlearn.core.batch import Batch
from inlearn.core.draws import Address, Addresses, StreamSeeds
from inlearn.core.spaces import Interface
from inlearn.studies.automata.config import MAX_ACTIONS, MAX_STATES, MachinesConfig
from inlearn.studies.automata.encoding import encode, query_places
from inlearn.studies.automata.episodes import Episodes
from inlearn.studies.automata.machines import Law, Split, below, machines, possible_at_once
from inlearn.studies.automata.walks import walk

BLOCK = 64  # training steps drawn together, because a draw of few rows costs its operations, not its numbers
SMALL = 1 << 14  # symbols of a step up to which that pays


class RowKeys:
    """The keys of a split's rows at an address: (..., N) for every name. index: (N,) or (..., N), the rows' numbers."""

    def __init__(self, at: Address | Addresses, split: Split, index: Tensor):
        self.at, self.split, self.index = at, split, index

    def __getitem__(self, name: str) -> Tensor:
        return draws.each(self.at.key(self.split, name, device=self.index.device)[..., None], self.index)


def draw(keys: RowKeys, config: MachinesConfig, look: bool = True, every: bool = False) -> Episodes:
    """What rows are made of: machines of the split, demonstrations from different start states, a query.

    A demonstration is a function of its row and its start alone, so these are among what `every` draws: one from each
    state, in their order. look: see `machines`.
    """
    table = machines(keys["machine"], Law.of(config), keys.split, look)
    device, states = table.device, config.states
    if every:
        start = torch.arange(states, device=device).expand(table.shape[:-1])
    else:
        start = in_random_order(keys["starts"], states)[..., : config.demos]
    first = below(draws.bits(keys["first"], 1, 1).squeeze(-2), states)
    total = config.defined == 1
    each = draws.each(keys["demonstrations"][..., None], start)
    shown = walk(table, start, each, config.longest(config.demo_length), total)
    asked = walk(table, first, keys["query"][..., None], config.longest(config.query_length), total)
    words = draws.bits(keys["lengths"], 1, states + 1).squeeze(-2)
    demo_lengths = _lengths(words.gather(-1, start), config, config.demo_length)
    query_lengths = _lengths(words[..., states], config, config.query_length)
    query = asked[0].squeeze(-2), asked[1].squeeze(-2), query_lengths, query_places(demo_lengths)
    return Episodes(table, *shown, demo_lengths, *query, *symbols(keys, config))


def _lengths(words: Tensor, config: MachinesConfig, given: int | None) -> Tensor:
    """Lengths of walks, each within `jitter` of what they should be, rounded down. In float64: equal on all devices."""
    uniform = ((words >> 12) & ((1 << 52) - 1)).double().add_(0.5).mul_(2.0**-52)
    share = uniform.mul_(2.0).sub_(1.0).mul_(config.jitter).add_(1.0)
    return share.mul_(config.walk(given)).floor_().long().clamp_(1, config.longest(given))


def symbols(keys: RowKeys, config: MachinesConfig) -> tuple[Tensor, Tensor]:
    """The symbols of states (..., N, S) and of actions (..., N, A)."""
    own = keys["symbols"]
    shown = torch.arange(config.states, device=own.device).expand(*own.shape, -1)
    taken = torch.arange(config.actions, device=own.device).expand(*own.shape, -1)
    if config.outputs is not None:
        shown = _outputs(keys["outputs"], config.states, config.outputs)
    if config.relabel:
        shown = in_random_order(own, MAX_STATES).gather(-1, shown)
        taken = in_random_order(keys["action symbols"], MAX_ACTIONS).gather(-1, taken)
    return shown, MAX_STATES + taken


def _outputs(keys: Tensor, states: int, outputs: int) -> Tensor:
    """(..., S) output symbols: each is that of some state, and the remaining states have any."""
    words = draws.bits(keys, 1, 2 * states).squeeze(-2)
    rank = words[..., :states].argsort(dim=-1, stable=True)
    return torch.where(rank < outputs, rank, below(words[..., states:], outputs))


def in_random_order(keys: Tensor, count: int) -> Tensor:
    """(..., count): 0..count-1 in random order."""
    return draws.bits(keys, 1, count).squeeze(-2).argsort(dim=-1, stable=True)


# ---------------------------------------------------------------- tasks


class Blocks:
    """Batches of training steps, BLOCK of them drawn at once: each is what it is when drawn alone."""

    def __init__(self, draw: Callable[[Address, int, int], Batch]):
        """draw(at, rows, first) has the steps of `at` in front of every shape."""

        @lru_cache(maxsize=2)
        def drawn(seeds: StreamSeeds, block: int, rows: int, first: int) -> Batch:
            steps = torch.arange(block * BLOCK, (block + 1) * BLOCK)
            return draw(Address(seeds, "data", steps), rows, first)

        self._drawn = drawn

    def sample(self, at: Address, rows: int, first: int) -> Batch:
        block, turn = divmod(at.step, BLOCK)
        batches = self._drawn(at.seeds, block, rows, first)
        own = {name: getattr(batches, name)[turn] for name in ("inputs", "targets", "weights")}
        episodes = Episodes(*(getattr(batches.latents, part.name)[turn] for part in fields(Episodes)))
        return Batch(**own, latents=episodes)


def in_blocks(at: Address | Addresses, symbols: int) -> bool:
    """Whether steps of so many symbols should be drawn together: training steps that are counted on the host."""
    return symbols <= SMALL and isinstance(at, Address) and isinstance(at.step, int) and at.stream == "data"


@dataclass(frozen=True)
class Machines:
    """Rows drawn at the address asked for or, where they have a `place` of their own, always there.

    split: whose machines. dense, free: see `encode`. Batches of training steps (stream `data`) have no marks: nobody
    slices them.
    """

    interface: Interface
    config: MachinesConfig
    split: Split
    dense: bool = False
    free: bool = False
    place: Address | None = None
    labels: Mapping[str, Sequence[float | str]] = field(default_factory=dict)

    def sample(self, at: Address | Addresses, rows: int, first: int = 0) -> Batch:
        at = self.place or at
        if in_blocks(at, rows * self.config.length):
            return self._blocks.sample(at, rows, first)
        return self._draw(at, rows, first, look=isinstance(at.step, int))

    def _draw(self, at: Address | Addresses, rows: int, first: int, look: bool = True) -> Batch:
        episodes = draw(RowKeys(at, self.split, row_numbers(at, rows, first)), self.config, look)
        return encode(episodes, self.config.length, self.dense, self.free, marked=at.stream != "data")

    @cached_property
    def _blocks(self) -> Blocks:
        return Blocks(self._draw)

    @classmethod
    def combined(cls, tasks: Sequence[Machines]) -> Machines | None:
        """Of equal tasks: what one draws at the addresses of many has the members in front. None, so that members are
        drawn one by one, also where a machine may take more candidates than are drawn at once."""
        first = tasks[0]
        alike = all(task == first for task in tasks)
        return first if alike and possible_at_once(Law.of(first.config), first.split) else None


def row_numbers(at: Address | Addresses, rows: int, first: int) -> Tensor:
    device = at.step.device if isinstance(at.step, Tensor) else "cpu"
    return torch.arange(first, first + rows, device=device)
