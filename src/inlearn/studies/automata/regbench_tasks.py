"""Rows of words of one random DFA: word, separator, word, ... (RegBench: Akyürek et al. 2024, arXiv 2401.12973).

Shapes: N rows of T positions, at most W words of at most M letters. Tensors are made where the address's step lives.
Steps of shape (S,), or the members of a stack, stand in front of every shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from inlearn.core import draws
from inlearn.core.batch import Batch
from inlearn.core.draws import Address, Addresses
from inlearn.core.spaces import Interface
from inlearn.studies.automata.regbench_config import LETTERS, NOOP, SEPARATOR, RegBenchConfig
from inlearn.studies.automata.regbench_machines import (
    DFAs,
    Rows,
    Split,
    Words,
    below,
    between,
    draw_of_split,
    places,
    training_dfas,
)


@dataclass(frozen=True)
class Prompts:
    """What generated a batch's rows."""

    dfas: DFAs  # (N, ...)
    node: Tensor  # (N, T) the node from which the letter asked for at a position leaves; 0 where none is asked for

    def to(self, device: torch.device | str) -> Prompts:
        return Prompts(self.dfas.to(device), self.node.to(device))


@dataclass(frozen=True)
class FreshPrompts:
    """A machine of `split` and words of its own for every row. place: where they are drawn, whatever the address asked.

    Every letter is asked for but the row's first one, which nothing comes before. Separators are not: words end by
    chance. Marks, at what is asked for: "legal" the letters that may follow as a sum of powers of two; "word" the
    word's number from 1; "letter" the letter's place in it from 1 and "position" how many symbols came before in the
    row, both as the largest power of two that is no greater.
    """

    interface: Interface
    law: RegBenchConfig
    split: Split
    place: Address | None = None
    labels: Mapping[str, Sequence[float | str]] = field(default_factory=dict)

    def sample(self, at: Address | Addresses, rows: int, first: int = 0) -> Batch:
        asked = Rows.following(self.place or at, self.split, rows, first)
        dfas, found = draw_of_split(asked, self.law)
        batch = prompts(dfas, asked.words, self.law)
        return replace(batch, weights=batch.weights * found[..., None])

    @classmethod
    def combined(cls, tasks: Sequence[FreshPrompts]) -> FreshPrompts | None:
        """Of equal tasks: what one draws at the addresses of many has the members in front."""
        return tasks[0] if all(task == tasks[0] for task in tasks) else None


class FinitePrompts:
    """`size` rows, each of a training machine of its own; row i is a function of (place, i). Marks: see `FreshPrompts`.

    At stream `data` they come once an epoch, elsewhere in their order. Epoch e is a random order of them, addressed by
    e; a step's rows may end one epoch and begin the next. `batch` is the rows of a whole step. On the host, one step
    at a time.
    """

    def __init__(self, interface: Interface, law: RegBenchConfig, place: Address, size: int, batch: int | None):
        self.interface, self.law, self.place, self.size, self.batch = interface, law, place, size, batch
        self.labels: Mapping[str, Sequence[float | str]] = {}
        self.dfas = training_dfas(place, size, law)

    def sample(self, at: Address, rows: int, first: int = 0) -> Batch:
        index = self.indices(at, rows, first)
        return prompts(self.dfas[index], Rows(self.place, "train", index).words, self.law)

    def indices(self, at: Address, rows: int, first: int = 0) -> Tensor:
        """(rows,) int64: which of the rows stand at this address."""
        if not isinstance(at.step, int):
            raise ValueError("a finite set of rows is drawn on the host, one step at a time")
        if at.stream != "data":
            return torch.arange(first, first + rows)
        if self.batch is None:
            raise ValueError("a finite set of rows needs the training batch: build(seeds, batch=...)")
        start = at.step * self.batch + first
        epochs = range(start // self.size, (start + rows - 1) // self.size + 1)
        order = torch.cat([self._order(replace(at, step=epoch).key("order").item()) for epoch in epochs])
        begin = start - epochs.start * self.size
        return order[begin : begin + rows]

    @cached_property
    def _order(self) -> Callable[[int], Tensor]:
        """An epoch's order by its key; the last two are kept."""
        return lru_cache(maxsize=2)(lambda key: draws.permutation(torch.tensor(key), self.size))


# ---------------------------------------------------------------- rows


def prompts(dfas: DFAs, words: Words, law: RegBenchConfig) -> Batch:
    """One row of each machine, its words drawn from `words`."""
    most, longest = law.words[1], law.word_length[1]
    device = dfas.nodes.device
    count = between(words("words", 1), law.words)
    lengths = between(words("lengths", most), law.word_length) * (places(most, device) < count)
    node, letter = _walks(dfas, words("choices", most * longest).unflatten(-1, (most, longest)))
    start = lengths.cumsum(-1) - lengths + places(most, device)
    source = _sources(start, lengths, longest, law.length)

    def there(values: Tensor, otherwise: int) -> Tensor:
        """(..., T + 1) `values` (..., W, M) at the places of their letters."""
        flat = values.flatten(-2)
        return torch.cat((torch.full_like(flat[..., :1], otherwise), flat), -1).gather(-1, source)

    symbols = there(letter, NOOP)
    ends = torch.where(places(most, device) < count - 1, start + lengths, law.length + 1)
    symbols = torch.cat((symbols, symbols[..., :1]), -1).scatter_(-1, ends, SEPARATOR)[..., :-1]
    asked = source[..., 1:] > 0
    legal = dfas.legal.gather(-1, node.flatten(-2)).view_as(node)
    number = (source[..., 1:] - 1).clamp(min=0)
    marks = {
        "legal": there(legal, 0)[..., 1:],
        "word": (number // longest + 1) * asked,
        "letter": _power(number % longest + 1) * asked,
        "position": _power(places(law.length, device) + 1) * asked,
    }
    latents = Prompts(dfas, there(node, 0)[..., 1:])
    targets = symbols[..., 1:] * asked
    return Batch(symbols[..., :-1].contiguous(), targets, asked.float(), marks=marks, latents=latents)


def _walks(dfas: DFAs, choices: Tensor) -> tuple[Tensor, Tensor]:
    """(..., W, M) the nodes that the letters of each word leave, and these letters: one of a node's edges each time."""
    letters, targets, degrees = dfas.letters.flatten(-2), dfas.targets.flatten(-2), dfas.degrees
    edges = dfas.letters.shape[-1]
    node = torch.zeros_like(choices[..., 0])
    nodes, found = [], []
    for word in choices.unbind(-1):
        edge = node * edges + below(word, degrees.gather(-1, node))
        nodes.append(node)
        found.append(letters.gather(-1, edge))
        node = targets.gather(-1, edge)
    return torch.stack(nodes, -1), torch.stack(found, -1)


def _sources(start: Tensor, lengths: Tensor, longest: int, length: int) -> Tensor:
    """(..., T + 1) for every place of a row's symbols 1 + w M + m where letter m of word w stands there, else 0."""
    most, device = lengths.shape[-1], lengths.device
    letter = places(longest, device)
    place = torch.where(letter < lengths[..., None], start[..., None] + letter, length + 1).flatten(-2)
    number = (places(most * longest, device) + 1).expand_as(place)
    return number.new_zeros(*place.shape[:-1], length + 2).scatter_(-1, place, number)[..., :-1]


def _power(numbers: Tensor) -> Tensor:
    """The largest powers of two that are no greater."""
    return torch.ones_like(numbers) << (torch.frexp(numbers.double()).exponent.long() - 1)


def separated(symbols: Sequence[int]) -> str:
    """A row as one reads it: letters a to r, bars between words, no padding."""
    return "".join("|" if s == SEPARATOR else chr(ord("a") + s) for s in symbols if s < LETTERS or s == SEPARATOR)
