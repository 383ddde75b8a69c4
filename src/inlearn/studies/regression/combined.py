"""The training tasks of several runs drawn at once, for a stack: a few tensor operations whatever the members.

Shapes: E members of N sequences; keys are (..., E). What member e gets is, bit for bit, what its own task draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from inlearn.core import draws
from inlearn.core.batch import Batch
from inlearn.core.draws import Addresses
from inlearn.studies.regression.tasks import BLOCK, Dataset, Discrete, Gaussian, Prior, Regression, batch_of, labelled

NUMBERS = 1 << 20  # of inputs, drawn at once: so many steps are drawn together, up to BLOCK


def combined(tasks: Sequence[Regression]) -> Combined | None:
    """One task for all; None where one has a finite set of sequences, or their shapes differ."""
    sources = [task.source for task in tasks]
    if any(isinstance(source, Dataset) for source in sources):
        return None
    if len({(source.examples, source.dimension) for source in sources}) > 1:
        return None
    return Combined(tasks)


class Combined:
    """`Task` of a stack: batches at `Addresses` have the members in front, and no marks or latents."""

    def __init__(self, tasks: Sequence[Regression]):
        first = tasks[0].source
        self.interface, self.labels = tasks[0].interface, tasks[0].labels
        self.examples, self.dimension = first.examples, first.dimension
        self.priors = Priors([task.source.prior for task in tasks])
        self._noise = [task.source.noise_variance**0.5 for task in tasks]
        self._drawn: tuple[Tensor, tuple[object, ...], Batch] | None = None

    def sample(self, at: Addresses, rows: int, first: int = 0) -> Batch:
        """At steps (E,). On a CPU several steps are drawn at once, because a draw costs its operations, not its
        numbers; the next calls take theirs from what was drawn."""
        numbers = len(self._noise) * rows * self.examples * self.dimension
        if at.step.device.type != "cpu" or 2 * numbers > NUMBERS:
            return self._draw(at, rows, first)
        asked = at.seeds, at.stream, rows, first
        if self._drawn is not None and self._drawn[1] == asked:
            offset = (at.step - self._drawn[0]).tolist()
            if len(set(offset)) == 1 and 0 <= offset[0] < len(self._drawn[2].weights):
                return _of_step(self._drawn[2], offset[0])
        steps = at.step + torch.arange(min(BLOCK, NUMBERS // numbers))[:, None]
        drawn = self._draw(Addresses(at.seeds, at.stream, steps), rows, first)
        self._drawn = at.step, asked, drawn
        return _of_step(drawn, 0)

    def _draw(self, at: Addresses, rows: int, first: int) -> Batch:
        """Leading shape as the steps': (..., E)."""
        device = at.step.device
        w = self.priors.draw(at.key("weights", device=device), rows, first)
        xs = draws.normal(at.key("inputs", device=device), rows, (self.examples, self.dimension), first)
        key = at.beside("noise").key("labels", device=device)
        scale = _column(tuple(self._noise), device)
        sequences = labelled(w, xs, draws.normal(key, rows, (self.examples,), first) * scale)
        batch = batch_of(sequences)
        return Batch(batch.inputs, batch.targets, batch.weights, columns=batch.columns)


def _of_step(drawn: Batch, place: int) -> Batch:
    return Batch(drawn.inputs[place], drawn.targets[place], drawn.weights[place], columns=drawn.columns)


class Priors:
    """The priors of E members: Gaussian ones of any variance, and discrete ones of any number of task vectors."""

    def __init__(self, priors: Sequence[Prior]):
        self.priors = priors
        self._gaussian = [e for e, prior in enumerate(priors) if isinstance(prior, Gaussian)]
        self._discrete = [e for e, prior in enumerate(priors) if isinstance(prior, Discrete)]
        self._tables: dict[torch.device, tuple[Tensor, ...]] = {}

    def draw(self, key: Tensor, rows: int, first: int = 0) -> Tensor:
        """(..., E, rows, D) task vectors for keys (..., E)."""
        if not self._discrete:
            return self._draw_gaussian(key, rows, first)
        if not self._gaussian:
            return self._draw_discrete(key, rows, first)
        gaussian, discrete, order = _places(tuple(self._gaussian), tuple(self._discrete), key.device)
        parts = key.index_select(-1, gaussian), key.index_select(-1, discrete)
        drawn = self._draw_gaussian(parts[0], rows, first), self._draw_discrete(parts[1], rows, first)
        return torch.cat(drawn, -3).index_select(-3, order)

    def _draw_gaussian(self, key: Tensor, rows: int, first: int) -> Tensor:
        own = [self.priors[e] for e in self._gaussian]
        scale = _column(tuple(prior.variance**0.5 for prior in own), key.device)
        return draws.normal(key, rows, (own[0].dimension,), first) * scale

    def _draw_discrete(self, key: Tensor, rows: int, first: int) -> Tensor:
        if key.device not in self._tables:
            own = [self.priors[e].vectors for e in self._discrete]
            counts = torch.tensor([len(vectors) for vectors in own])
            tables = torch.cat(own), counts, counts.cumsum(0) - counts
            self._tables[key.device] = tuple(table.to(key.device) for table in tables)
        vectors, counts, start = self._tables[key.device]
        return vectors[draws.integers(key, rows, counts, first=first) + start[:, None]]


@lru_cache(maxsize=256)  # kept on the device: a CUDA graph may copy nothing from the host
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(E, 1, 1), to scale draws (..., E, rows, columns)."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)[:, None, None]


@lru_cache(maxsize=64)
def _places(some: tuple[int, ...], others: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The members of each kind, and the order that puts them back where they were."""
    with torch.inference_mode(False):
        one, other = torch.tensor(some), torch.tensor(others)
        return one.to(device), other.to(device), torch.cat((one, other)).argsort().to(device)
