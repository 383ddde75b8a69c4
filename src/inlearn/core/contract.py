"""The contract between studies, models and the laboratory. A study knows no model, a model no study; both know this.

Shapes: N rows of T positions; a leading member axis may precede N in every tensor of a batch. Only right padding
and causal models exist here, so there is no padding mask: what follows the last scored position cannot matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from inlearn.core.draws import Address

# ---------------------------------------------------------------- output spaces


@dataclass(frozen=True)
class Tokens:
    """A position carries one of `size` symbols. A prediction is (..., size) log-probabilities; losses are in nats."""

    size: int
    unit: ClassVar[str] = "nats"

    @property
    def width(self) -> int:
        return self.size

    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs.log_softmax(-1)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy per position: -log p(target)."""
        return -prediction.gather(-1, target[..., None]).squeeze(-1)

    def divergence(self, reference: Tensor, prediction: Tensor) -> Tensor:
        """KL(reference || model) per position: finite even where the reference is one-hot."""
        possible = reference > float("-inf")
        terms = reference.exp() * (reference - prediction)
        return torch.where(possible, terms, torch.zeros_like(terms)).sum(-1)


@dataclass(frozen=True)
class Vectors:
    """A position carries `dim` reals. A prediction is a mean; losses are squared errors averaged over columns.

    `answers` columns are predicted and scored; further columns of the model's output exist but carry no loss
    (the published regression model emits D+1 numbers of which only the first is trained).
    """

    dim: int
    answers: int | None = None
    unit: ClassVar[str] = "squared error"

    @property
    def width(self) -> int:
        return self.dim

    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs if self.answers is None else outputs[..., : self.answers]

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().mean(-1)

    divergence = loss


Space = Tokens | Vectors


@dataclass(frozen=True)
class Interface:
    """All that a model may know of a problem. `length` is the longest row, prefix included."""

    inputs: Space
    outputs: Space
    length: int


# ---------------------------------------------------------------- data


def grid(columns: slice, rows: int, steps: int, device: torch.device) -> Tensor:
    """The flat indices (n,) of `columns` in each of `rows` rows of `steps` positions."""
    return _grid(range(*columns.indices(steps)), rows, steps, device)


@lru_cache(maxsize=64)
def _grid(columns: range, rows: int, steps: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return (torch.tensor(columns, dtype=torch.int64) + steps * torch.arange(rows)[:, None]).flatten().to(device)


@dataclass(frozen=True)
class Batch:
    """What a task hands out. `marks` may be read by measures; `latents` by reference learners and probes only."""

    inputs: Tensor  # (N, T) int64 | (N, T, D) float32
    targets: Tensor  # (N, T) int64 | (N, T, A) float32
    weights: Tensor  # (N, T) float32; 0 where no answer is scored; training and evaluation weigh losses alike
    prefix: Tensor | None = None  # (N / Q, S[, D]); row n continues prefix n // Q
    marks: Mapping[str, Tensor] = field(default_factory=dict)  # (N,) | (N, T) int64: what measures are sliced by
    latents: Any = None  # what generated the rows
    columns: slice | None = None  # the scored positions of every row, where the task has them fixed: nobody has to look

    @property
    def rows(self) -> int:
        return self.weights.shape[-2]

    @cached_property
    def scored(self) -> Tensor:
        """(n,) int64 into the flattened N·T positions, ascending: where an answer is scored, in each member alike.

        Of a stack, all positions, unless the task has fixed `columns`: what each member's own weights say would make
        the arithmetic of one depend on its company.
        """
        rows, steps = self.weights.shape[-2:]
        if self.columns is not None:
            return grid(self.columns, rows, steps, self.weights.device)
        if self.weights.dim() > 2:
            return grid(slice(0, steps), rows, steps, self.weights.device)
        return self.weights.flatten().nonzero().squeeze(-1)

    @property
    def where(self) -> slice | Tensor:
        """`scored` as a model is told it: the fixed columns if there are any."""
        if self.columns is None and self.weights.dim() > 2:
            return slice(0, self.weights.shape[-1])
        return self.scored if self.columns is None else self.columns

    def at_scored(self, values: Tensor) -> Tensor:
        """`values` (..., N, T, *) or (..., N) at the scored positions, (..., n, *), in row order."""
        lead = self.weights.dim() - 2
        where = self.where
        if isinstance(where, slice):
            if values.dim() == lead + 1:
                values = values[..., None].expand(self.weights.shape)
            return values[(*[slice(None)] * (lead + 1), where)].flatten(lead, lead + 1)
        if values.dim() == 1:
            return values[where // self.weights.shape[-1]]
        return values.flatten(0, 1)[where]

    @property
    def scored_rows(self) -> Tensor:
        """(n,) int64: the row of every scored position."""
        return self.scored // self.weights.shape[-1]

    def unshared(self) -> Batch:
        """The literal form: every row carries its own prefix. The oracle that branches are tested against."""
        if self.prefix is None:
            return self
        rows, steps = self.rows, self.prefix.shape[1]
        own = self.prefix.repeat_interleave(rows // self.prefix.shape[0], 0)

        def pad(values: Tensor) -> Tensor:
            return torch.cat((values.new_zeros(rows, steps, *values.shape[2:]), values), 1)

        marks = {name: pad(mark) if mark.dim() > 1 else mark for name, mark in self.marks.items()}
        literal = torch.cat((own, self.inputs), 1), pad(self.targets), pad(self.weights), None, marks, self.latents
        columns = self.columns
        if columns is not None:
            columns = slice(columns.start + steps, columns.stop + steps, columns.step)
        return Batch(*literal, columns)

    def part(self, first: int, rows: int) -> Batch:
        """Rows first..first+rows-1 for a micro-batch, without latents; a shared prefix is never cut in two."""
        here = slice(first, first + rows)
        prefix = self.prefix
        if prefix is not None:
            share = self.rows // prefix.shape[0]
            if first % share or rows % share:
                raise ValueError(f"a micro-batch of {rows} rows would cut a prefix that {share} rows share")
            prefix = prefix[first // share : (first + rows) // share]
        marks = {name: mark[here] for name, mark in self.marks.items()}
        return Batch(self.inputs[here], self.targets[here], self.weights[here], prefix, marks, columns=self.columns)

    @staticmethod
    def stacked(batches: Sequence[Batch]) -> Batch:
        """The batches of a stack's members, in front of every shape; what training needs of them, so no marks or
        latents. Raises `ValueError` where shapes or fixed columns differ."""
        first = batches[0]
        if any(batch.columns != first.columns for batch in batches):
            raise ValueError(f"members score other columns: {[batch.columns for batch in batches]}")

        def together(name: str) -> Tensor:
            values = [getattr(batch, name) for batch in batches]
            if len({value.shape for value in values}) > 1:
                raise ValueError(f"{name} of members have other shapes: {sorted({tuple(v.shape) for v in values})}")
            return torch.stack(values)

        prefix = None if first.prefix is None else together("prefix")
        return Batch(*map(together, ("inputs", "targets", "weights")), prefix, columns=first.columns)

    def to(self, device: torch.device | str) -> Batch:
        moved = {name: mark.to(device) for name, mark in self.marks.items()}
        prefix = None if self.prefix is None else self.prefix.to(device)
        latents = self.latents.to(device) if hasattr(self.latents, "to") else self.latents
        tensors = {name: getattr(self, name).to(device) for name in ("inputs", "targets", "weights")}
        return replace(self, **tensors, prefix=prefix, marks=moved, latents=latents)

    def check(self, interface: Interface) -> None:
        """Raise `ValueError` where the batch breaks the contract. For tests and `inlearn doctor`; not in the loop."""
        rows, steps = self.weights.shape
        for name, values, space in (
            ("inputs", self.inputs, interface.inputs),
            ("targets", self.targets, interface.outputs),
        ):
            tail = () if isinstance(space, Tokens) else (values.shape[-1],)
            if tuple(values.shape) != (rows, steps, *tail):
                raise ValueError(
                    f"{name} has shape {tuple(values.shape)}; expected ({rows}, {steps}) with the space's columns"
                )
            if isinstance(space, Tokens) and not (int(values.min()) >= 0 and int(values.max()) < space.size):
                raise ValueError(f"{name} has symbols outside 0..{space.size - 1}")
            if not torch.isfinite(values).all():
                raise ValueError(f"{name} has values that are not finite")
        if isinstance(interface.inputs, Vectors) and self.inputs.shape[-1] != interface.inputs.dim:
            raise ValueError(f"inputs have {self.inputs.shape[-1]} columns; expected {interface.inputs.dim}")
        if isinstance(interface.outputs, Vectors):
            wanted = interface.outputs.answers or interface.outputs.dim
            if self.targets.shape[-1] != wanted:
                raise ValueError(f"targets have {self.targets.shape[-1]} columns; expected {wanted}")
        before = 0 if self.prefix is None else self.prefix.shape[1]
        if before + steps > interface.length:
            raise ValueError(f"rows reach {before + steps} positions; the interface says {interface.length}")
        if self.prefix is not None and rows % self.prefix.shape[0]:
            raise ValueError(f"{rows} rows cannot share {self.prefix.shape[0]} prefixes evenly")
        if (self.weights < 0).any() or not (asked := self.weights > 0).any():
            raise ValueError("weights must be non-negative with at least one scored position")
        if self.columns is not None and (
            not asked[:, self.columns].all() or int(asked.sum()) != self.scored.numel() or self.columns.start is None
        ):
            raise ValueError(f"weights do not agree with the fixed columns {self.columns}")
        for name, mark in self.marks.items():
            if mark.dtype != torch.int64 or tuple(mark.shape) not in ((rows,), (rows, steps)):
                raise ValueError(f"mark '{name}' must be int64 of shape (N,) or (N, T)")


@runtime_checkable
class Task(Protocol):
    """One distribution of batches: "train", or a named evaluation set.

    `labels` gives the meaning of a mark's integers where they are indices, e.g. {"gain": (3.0, 5.0)}.
    """

    interface: Interface
    labels: Mapping[str, Sequence[float | str]]

    def sample(self, at: Address, rows: int, first: int = 0) -> Batch:
        """Rows first..first+rows-1 of the batch at this address; a row depends on the address and its number alone."""
        ...


class Combinable(Protocol):
    """A task that can draw for all members of a stack at once. Others are asked one by one."""

    @classmethod
    def combined(cls, tasks: Sequence[Task]) -> Task | None:
        """One task whose batches at `Addresses` have the members in front, each as its own task draws it; None where
        these tasks cannot be drawn together."""
        ...


# ---------------------------------------------------------------- learners


class Model(Protocol):
    """`state` is what the positions so far left behind (a cache, hidden states); with N/Q rows it is forked Q ways.

    With `scored`, (n,) into the flattened positions or the same columns of every row, outputs are (n, width) there;
    else (N, T, width).
    """

    def __call__(
        self, inputs: Tensor, state: Any = None, scored: Tensor | slice | None = None
    ) -> tuple[Tensor, Any]: ...


Mechanism = Literal["context", "weights", "tool", "none"]


class Reference(Protocol):
    """An ideal learner under one mechanism. Predictions are at `batch.scored`, in row order, like the model's."""

    name: str
    mechanism: Mechanism

    def predict(self, batch: Batch) -> Tensor: ...


@dataclass(frozen=True)
class Bound:
    """A limit that is no predictor (an entropy, log K / T): drawn in figures, never predicted with."""

    name: str
    unit: str
    formula: str
    value: float


# ---------------------------------------------------------------- measures


@dataclass(frozen=True)
class Measure:
    """`value(batch, space, prediction)` gives one number a scored position (n,) or one a row (N,).

    `by` lists the combinations of marks that slice it, beside the overall mean (`overall=False`: where such a mean
    says nothing). `sets` limits it to named evaluation sets (empty: all). Intervals count rows as independent unless
    `cluster` names a mark. The distances to reference learners are sliced as the measure called "loss" is.
    """

    name: str
    unit: str
    formula: str
    value: Callable[[Batch, Space, Tensor], Tensor]
    by: tuple[tuple[str, ...], ...] = ()
    sets: tuple[str, ...] = ()
    cluster: str | None = None
    overall: bool = True


class Environment(Protocol):
    """What answers when the model acts: a database, or the automaton itself."""

    def reply(self, row: int, tokens: Sequence[int]) -> Sequence[int] | None:
        """Tokens to force after `tokens`; an empty sequence to go on freely; None when the row is done."""
        ...


# ---------------------------------------------------------------- a study


class Study:
    """What a study's configuration builds. Subclasses set `tasks` and `measures`; the rest is where they need it.

    `monitored` names the evaluation sets that every run evaluates while it trains, in the order of its reports.
    """

    tasks: Mapping[str, Task]
    measures: Sequence[Measure] = ()
    monitored: Sequence[str] = ("train",)
    bounds: Sequence[Bound] = ()

    @property
    def interface(self) -> Interface:
        return self.tasks["train"].interface

    def references(self, name: str) -> Sequence[Reference]:
        """The ideal learners of evaluation set `name`."""
        return ()

    def evaluation_rows(self, name: str) -> int:
        """How many rows evaluation set `name` has."""
        return 1024

    def rows_together(self, name: str) -> int:
        """How many consecutive rows of a set must never be parted: queries of one prefix, probes of one weight."""
        return 1

    def environments(self) -> Mapping[str, Environment]:
        return {}

    def prepare(self, say: Callable[[str], None]) -> None:
        """Build whatever data the study needs before training; twice is as good as once."""
        say("nothing to prepare: every batch is drawn when it is needed")

    def describe(self) -> Iterable[tuple[str, Any]]:
        """(title, rows as list of dicts) or (title, chart), in reading order: the data in numbers and charts."""
        return ()

    def charts(self, evaluations: Any, labels: Mapping[str, Any]) -> Iterable[tuple[str, str, Any]]:
        """(title, caption, chart) for a report, from the long table of evaluations (pandas) and the sets' labels."""
        return ()

    def quantities(self) -> Mapping[str, Callable[..., float]]:
        """Named exact numbers that claims may check, each a function of keyword arguments."""
        return {}
