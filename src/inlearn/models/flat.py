"""All parameters of a model in one contiguous buffer, all gradients in a second.

One fused optimiser call then updates everything; a clip norm, a NaN test, a distance or SGLD noise is one line.
"""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor, nn

from inlearn.models.leaves import members


class FlatParameters:
    """Makes every parameter of `model` a view of `values` and every `.grad` a view of `gradients`.

    values: (P,), or (E, P) for a stack, a Parameter whose `.grad` is `gradients`: hand it to an optimiser.
    rows: one (P,) Parameter a member, views of the same memory, for optimisers with a group a member.
    layout: (name, shape without the member axis) in the order of the buffer; a tied parameter appears once.

    Call it after moving the model to its device and dtype. Clear gradients with `zero`, never with None, and give
    a member's norm one `vector_norm` over its row: sums over parts would depend on the company it keeps.
    """

    def __init__(self, model: nn.Module) -> None:
        named = list(model.named_parameters())
        count = members(model)
        lead = () if count is None else (count,)
        if count is not None:
            _hear_layout_warning()
        self.layout: list[tuple[str, tuple[int, ...]]] = [(name, tuple(p.shape[len(lead) :])) for name, p in named]
        self.values = nn.Parameter(torch.cat([p.detach().reshape(*lead, -1) for _, p in named], -1))
        self.gradients = torch.zeros_like(self.values, requires_grad=False)
        self.values.grad = self.gradients
        for (_, parameter), value, gradient in zip(
            named, self.views(self.values), self.views(self.gradients), strict=True
        ):
            parameter.data, parameter.grad = value, gradient
        self.rows: list[nn.Parameter] = []
        for value, gradient in zip(
            self.values.detach().reshape(-1, self.values.shape[-1]),
            self.gradients.reshape(-1, self.values.shape[-1]),
            strict=True,
        ):
            row = nn.Parameter(value)
            row.grad = gradient
            self.rows.append(row)

    def named(self, buffer: Tensor) -> dict[str, Tensor]:
        """A buffer (..., P) laid out like `values`, cut into views (..., *shape) by parameter name.

        Part of autograd's graph where the buffer is, so that a function of the views is one of the buffer.
        """
        sizes = [torch.Size(shape).numel() for _, shape in self.layout]
        parts = buffer.split(sizes, -1)
        return {name: part.unflatten(-1, shape) for part, (name, shape) in zip(parts, self.layout, strict=True)}

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The same in the order of `layout`, detached: to be the data of parameters."""
        return list(self.named(buffer.detach()).values())

    def zero(self) -> None:
        self.gradients.zero_()


@cache
def _hear_layout_warning() -> None:
    """torch says once a process that a gradient that is a strided view "may impair performance".

    A stack's rows make them so on purpose, at no cost that we could measure; hear it here, once, and go on.
    """
    rows, gradients = torch.zeros(2, 3), torch.zeros(2, 3)
    parameter = nn.Parameter(rows[:, :2])
    parameter.grad = gradients[:, :2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parameter.sum().backward()
