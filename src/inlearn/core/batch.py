"""Rows of inputs, targets and weights: what a task hands out, a model is trained on and a learner predicts.

Shapes: N rows of T positions; a leading member axis may precede N in every tensor of a batch. Only right padding
and causal models exist here, so there is no padding mask: what follows the last scored position cannot matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from inlearn.core.spaces import Interface, Tokens, Vectors


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
    feedback: Tensor | None = (
        None  # (N, T) bool: this input is the symbol that the learner thought likeliest just before
    )

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
        feedback = None if self.feedback is None else pad(self.feedback)
        columns = self.columns
        if columns is not None:
            columns = slice(columns.start + steps, columns.stop + steps, columns.step)
        return Batch(*literal, columns, feedback)

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
        feedback = None if self.feedback is None else self.feedback[here]
        own = self.inputs[here], self.targets[here], self.weights[here]
        return Batch(*own, prefix, marks, columns=self.columns, feedback=feedback)

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
        feedback = None if self.feedback is None else self.feedback.to(device)
        return replace(self, **tensors, prefix=prefix, marks=moved, latents=latents, feedback=feedback)

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
            if isinstance(space, Tokens) and space.among and (values[self.weights > 0] >= space.among).any():
                raise ValueError(f"{name} has symbols that cannot come up: {space.among} or above")
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
        if (self.weights < 0).any() or not (self.weights > 0).any():
            raise ValueError("weights must be non-negative with at least one scored position")
        self.check_columns()
        if self.feedback is not None and (self.feedback.dtype != torch.bool or self.feedback.shape != (rows, steps)):
            raise ValueError("feedback must be bool of shape (N, T)")
        if self.feedback is not None and self.feedback[:, 0].any():
            raise ValueError("the first input has no position before it to come from")
        for name, mark in self.marks.items():
            if mark.dtype != torch.int64 or tuple(mark.shape) not in ((rows,), (rows, steps)):
                raise ValueError(f"mark '{name}' must be int64 of shape (N,) or (N, T)")

    def check_columns(self) -> None:
        """Raise `ValueError` where fixed `columns` are not those that are scored: nobody else would see it."""
        if self.columns is None:
            return
        asked = self.weights > 0
        if (
            not asked[:, self.columns].all()
            or int(asked.sum()) != self.scored.numel()
            or (self.columns.start, self.columns.stop) != self.columns.indices(asked.shape[1])[:2]
        ):
            raise ValueError(f"weights do not agree with the fixed columns {self.columns}")
