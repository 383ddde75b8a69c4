"""Sequences of noisy linear examples: the training distribution and the evaluation sets made from it.

Shapes: N sequences of K examples in D dimensions; xs (N, K, D), ys (N, K), one task vector w (N, D) a sequence.
Tensors are made where the address's step lives (the CPU, if it is a plain integer). A step of shape (S,) draws S
steps at once, with S in front of every shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Literal, Protocol

import torch
from torch import Tensor

from inlearn.core import draws
from inlearn.core.batch import Batch
from inlearn.core.contract import Task
from inlearn.core.draws import Address, StreamSeeds
from inlearn.core.spaces import Interface
from inlearn.studies.regression.encoding import encode_asked, positions


@dataclass(frozen=True)
class Sequences:
    """What generated a batch's rows. Reference learners read xs and ys whole, so they never decode tokens."""

    w: Tensor  # (N, D)
    xs: Tensor  # (N, K, D)
    ys: Tensor  # (N, K)

    def to(self, device: torch.device | str) -> Sequences:
        return Sequences(self.w.to(device), self.xs.to(device), self.ys.to(device))


# ---------------------------------------------------------------- where task vectors come from


class Prior(Protocol):
    """The distribution of the task vector. `second_moment` is E|w|²."""

    second_moment: float

    def draw(self, key: Tensor, rows: int, first: int = 0) -> Tensor:
        """(..., rows, D) task vectors, one a sequence."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """A fresh w ~ N(0, variance I) for every sequence."""

    dimension: int
    variance: float = 1.0

    @property
    def second_moment(self) -> float:
        return self.dimension * self.variance

    def draw(self, key: Tensor, rows: int, first: int = 0) -> Tensor:
        return draws.normal(key, rows, (self.dimension,), first) * self.variance**0.5


class Discrete:
    """Every sequence uses one of the M rows of `vectors` (M, D), each with odds 1/M."""

    def __init__(self, vectors: Tensor):
        self.vectors = vectors
        self.second_moment = vectors.double().square().sum(-1).mean().item()
        self._copies = {vectors.device: vectors}  # M = 2^20 vectors are not sent to a card at every step

    def draw(self, key: Tensor, rows: int, first: int = 0) -> Tensor:
        if key.device not in self._copies:
            self._copies[key.device] = self.vectors.to(key.device)
        return self._copies[key.device][draws.integers(key, rows, len(self.vectors), first=first)]


def task_vectors(seeds: StreamSeeds, count: int, dimension: int, variance: float = 1.0) -> Tensor:
    """(M, D): vector i is a function of (seeds.task, i), so a smaller set is the beginning of a larger one."""
    keys = draws.each(Address(seeds, "task").key("vectors"), torch.arange(count))
    return draws.normal(keys, 1, (dimension,)).squeeze(-2) * variance**0.5


# ---------------------------------------------------------------- sequences


@dataclass(frozen=True)
class Source:
    """An endless stream of sequences."""

    prior: Prior
    examples: int
    dimension: int
    noise_variance: float

    def unlabelled(self, at: Address, rows: int, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """w (..., rows, D), xs (..., rows, K, D) and the labels' noise (..., rows, K)."""
        device = at.step.device if isinstance(at.step, Tensor) else "cpu"
        w = self.prior.draw(at.key("weights", device=device), rows, first)
        xs = draws.normal(at.key("inputs", device=device), rows, (self.examples, self.dimension), first)
        key = at.beside("noise").key("labels", device=device)
        return w, xs, self._noise(key, rows, first)

    def _noise(self, key: Tensor, rows: int, first: int = 0) -> Tensor:
        return draws.normal(key, rows, (self.examples,), first) * self.noise_variance**0.5

    def sequences(self, at: Address, rows: int, first: int = 0) -> Sequences:
        return labelled(*self.unlabelled(at, rows, first))


@dataclass(frozen=True)
class Dataset(Source):
    """`size` sequences that exist from the start: sequence i is a function of (seeds, i), and comes once an epoch.

    Epoch e is a random order of them, addressed by e. Training step t holds places t·batch .. (t+1)·batch - 1 of the
    epochs laid end to end, so an epoch may end inside a step. `batch` is the rows of a whole step, which a rank
    or a micro-batch that asks for fewer cannot tell. One step at a time: a step of shape (S,) is refused.
    """

    seeds: StreamSeeds
    size: int
    batch: int | None = None

    def indices(self, at: Address, rows: int, first: int = 0) -> Tensor:
        """(rows,) int64: which of the dataset's sequences the rows of this address are."""
        if isinstance(at.step, Tensor) and at.step.dim():
            raise ValueError("a finite set of sequences draws one step at a time")
        step = int(at.step)
        if step and self.batch is None:
            raise ValueError("a finite set of sequences needs the training batch: build(seeds, batch=...)")
        start = step * (self.batch or 0) + first
        place, parts = start, []
        while place < start + rows:
            epoch, offset = divmod(place, self.size)
            take = min(self.size - offset, start + rows - place)
            parts.append(self._order(replace(at, step=epoch).key("order").item())[offset : offset + take])
            place += take
        return torch.cat(parts)

    @cached_property
    def _order(self) -> Callable[[int], Tensor]:
        """An epoch's order by its key. The last two are kept: sorting 2^20 keys takes longer than a training step, and
        an epoch has thousands of steps. By each set its own, since a stack goes through one a member."""
        return lru_cache(maxsize=2)(lambda key: draws.permutation(torch.tensor(key), self.size))

    def unlabelled(self, at: Address, rows: int, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        device = at.step.device if isinstance(at.step, Tensor) else "cpu"
        index = self.indices(at, rows, first).to(device)
        here = Address(self.seeds, "data")
        w = self.prior.draw(draws.each(here.key("weights", device=device), index), 1)
        xs = draws.normal(draws.each(here.key("inputs", device=device), index), 1, (self.examples, self.dimension))
        noise = self._noise(draws.each(here.beside("noise").key("labels", device=device), index), 1)
        return w.squeeze(-2), xs.squeeze(-3), noise.squeeze(-2)


def labelled(w: Tensor, xs: Tensor, noise: Tensor) -> Sequences:
    """y = w·x + noise. Summed, not multiplied as matrices: a matrix product's last bits depend on the rows' number."""
    return Sequences(w, xs, (xs * w[..., None, :]).sum(-1) + noise)


# ---------------------------------------------------------------- tasks


def batch_of(sequences: Sequences, marks: Mapping[str, Tensor] | None = None) -> Batch:
    """Every answer asked once: weight 1 at the x tokens, target y_k there, mark "position" k."""
    inputs = encode_asked(sequences.xs, sequences.ys)
    shape = inputs.shape[:-1]
    weights = inputs.new_zeros(shape)
    weights[..., 0::2] = 1.0
    targets = inputs.new_zeros(*shape, 1)
    targets[..., 0::2, 0] = sequences.ys
    position = positions(shape[-1], inputs.device).expand(shape)
    marks = {"position": position, **(marks or {})}
    return Batch(inputs, targets, weights, marks=marks, latents=sequences, columns=slice(0, shape[-1], 2))


@dataclass(frozen=True)
class Regression:
    """The sequences of a source as they are."""

    interface: Interface
    source: Source
    labels: Mapping[str, Sequence[float | str]] = field(default_factory=dict)

    def sample(self, at: Address, rows: int, first: int = 0) -> Batch:
        numbers = rows * self.source.examples * self.source.dimension
        if isinstance(self.source, Dataset) or not isinstance(at.step, int) or at.stream != "data" or numbers > 1 << 16:
            return batch_of(self.source.sequences(at, rows, first))
        block, place = divmod(at.step, BLOCK)
        return _step_of(self._block(at.seeds, block, rows, first), place)

    @cached_property
    def _block(self) -> Callable[[StreamSeeds, int, int, int], Batch]:
        """The batches of BLOCK consecutive steps, in front of every shape; each is what it is when drawn alone.

        Every task keeps its own, since a stack may go through one a member."""

        @lru_cache(maxsize=2)
        def drawn(seeds: StreamSeeds, block: int, rows: int, first: int) -> Batch:
            steps = torch.arange(block * BLOCK, (block + 1) * BLOCK)
            return batch_of(self.source.sequences(Address(seeds, "data", steps), rows, first))

        return drawn

    @classmethod
    def combined(cls, tasks: Sequence[Regression]) -> Task | None:
        """Of endless sources of one shape."""
        from inlearn.studies.regression.combined import combined

        return combined(tasks)


BLOCK = 16  # training steps drawn together: 0.2 ms a step instead of 0.55 at batch 256


def _step_of(batches: Batch, place: int) -> Batch:
    drawn = batches.latents
    return Batch(
        batches.inputs[place],
        batches.targets[place],
        batches.weights[place],
        marks={name: mark[place] for name, mark in batches.marks.items()},
        latents=Sequences(drawn.w[place], drawn.xs[place], drawn.ys[place]),
        columns=batches.columns,
    )


@dataclass(frozen=True)
class Gains:
    """Each sequence under every gain g in turn: its inputs scaled, g·x, or its task, g·w. Labels follow; noise stays.

    Row r is sequence r // G under gain r % G, so gains are compared on the same sequences. Marks: "gain" is the
    index into `gains`, "sequence" the sequence, by which rows are dependent.
    """

    interface: Interface
    source: Source
    gains: tuple[float, ...]
    scaled: Literal["inputs", "tasks"]

    @property
    def labels(self) -> Mapping[str, Sequence[float | str]]:
        return {"gain": self.gains}

    def sample(self, at: Address, rows: int, first: int = 0) -> Batch:
        (w, xs, noise), sequence, gain = _shared(self.source, at, rows, first, len(self.gains))
        factor = torch.tensor(self.gains, dtype=xs.dtype, device=xs.device)[gain]
        if self.scaled == "inputs":
            xs = xs * factor[:, None, None]
        else:
            w = w * factor[:, None]
        return batch_of(labelled(w, xs, noise), {"gain": gain, "sequence": sequence})


@dataclass(frozen=True)
class EffectiveWeight:
    """What a learner would answer along every axis, at every position of a sequence: its linear read-out ŵ.

    Row r probes axis i = r % D at position p = r // D % K of sequence r // (K·D): examples 0..p-1 are the
    sequence's own, input p is `norm`·e_i, and only the answer to it is scored (target `norm`·w_i, without noise).
    The D answers of a probe, divided by `norm`, are ŵ, so groups of D rows must stay together.
    """

    interface: Interface
    source: Source
    norm: float  # sqrt(D) is the length of a typical input

    @property
    def labels(self) -> Mapping[str, Sequence[float | str]]:
        return {}

    def sample(self, at: Address, rows: int, first: int = 0) -> Batch:
        examples, dimension = self.source.examples, self.source.dimension
        (w, xs, noise), sequence, probe = _shared(self.source, at, rows, first, examples * dimension)
        place, axis = probe // dimension, probe % dimension
        row = torch.arange(rows, device=xs.device)
        later = torch.arange(examples, device=xs.device) >= place[:, None]
        xs = xs.masked_fill(later[..., None], 0.0)
        xs[row, place, axis] = self.norm
        batch = batch_of(labelled(w, xs, noise.masked_fill(later, 0.0)), {"sequence": sequence})
        asked = torch.zeros_like(batch.weights)
        asked[row, 2 * place] = 1.0
        return replace(batch, weights=asked, columns=None)


def _shared(
    source: Source, at: Address, rows: int, first: int, share: int
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """Unlabelled sequences that `share` consecutive rows have in common; the sequence of each row; its turn in it."""
    base = first // share
    drawn = source.unlabelled(at, (first + rows - 1) // share + 1 - base, base)
    number = torch.arange(first, first + rows, device=drawn[0].device)
    sequence, turn = number // share, number % share
    w, xs, noise = (values[sequence - base] for values in drawn)
    return (w, xs, noise), sequence, turn
