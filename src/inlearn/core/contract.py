"""The contract between studies, models and the laboratory. A study knows no model, a model no study; both know this."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.draws import Address
from inlearn.core.spaces import Interface, Space

# ---------------------------------------------------------------- tasks


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

    def finite_rows(self, name: str) -> int | None:
        """How many rows set `name` has at all, whatever is asked of it; None where they have no end."""
        return None

    def rows_together(self, name: str) -> int:
        """How many consecutive rows of a set must never be parted: queries of one prefix, probes of one weight."""
        return 1

    def environments(self) -> Mapping[str, Environment]:
        return {}

    def probe_targets(self, batch: Batch) -> Mapping[str, Tensor]:
        """What a probe may look for in activations on `batch`, by name (analysis/probe). Of names such as "entry[2,5]"
        and "entry[3,1]" the common score of "entry" is given too.

        Classes are int64 (N, T), -1 where undefined; quantities are reals (N, T) or (N, T, D), NaN where undefined.
        """
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
